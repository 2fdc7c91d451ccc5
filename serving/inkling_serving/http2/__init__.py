"""A gRPC server on asyncio: HTTP/2 as gRPC uses it, and nothing of Inkling.

It is here because a small call costs a fifth of what it costs in grpc.aio; see
docs/benchmarks.md. Each module knows only those before it: `frames`, `messages`,
`heads`, `calls`, `responses`, `sending`, `answering`, `lifeline`, `connection`.
"""
