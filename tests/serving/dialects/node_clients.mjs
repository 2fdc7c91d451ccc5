// SPDX-License-Identifier: Apache-2.0
// Drives clients in JavaScript against a gateway, as foreign_clients.py drives those in Python.
//
// node node_clients.mjs CLIENT HTTP_ADDRESS GRPC_ADDRESS PICTURE INPUT.f32 CLASSIFIER.proto
//
// It prints one line of JSON, and ends with the exit code 3 where a package is missing. NODE_PATH names a folder with
// the packages.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const [, , client, http, grpcAddress, picturePath, inputsPath, proto] = process.argv;
const picture = await readFile(picturePath), inputs = await readFile(inputsPath);
const require = createRequire(import.meta.url);

function byIndex(top) {
  const scores = [];
  for (const { index, probability } of top) scores[index] = probability;
  return scores;
}

async function fetchClient() {
  const base = `http://${http}`, packages = { node: process.versions.node, undici: process.versions.undici };
  const post = async (path, body, headers = {}) => {
    const response = await fetch(base + path, { method: "POST", body, headers });
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
    return response;
  };
  const json = async (path, value) => (await post(path, JSON.stringify(value), { "content-type": "application/json" })).json();
  const b64 = picture.toString("base64"), scores = {}, facts = {};

  const classify = "/v1/models/mlp:classify?top_k=10";
  scores.body = byIndex((await (await post(classify, picture)).json()).results[0].top);
  const form = new FormData();
  form.append("picture", new Blob([picture]), "picture.png");
  scores.FormData = byIndex((await (await post(classify, form)).json()).results[0].top);
  scores.predict = (await json("/v1/models/mlp:predict", { instances: [{ b64 }] })).predictions[0];
  const one = { name: "inputs", shape: [1], datatype: "BYTES", data: [b64] };
  scores["v2 BYTES"] = (await json("/v2/models/mlp/infer", { inputs: [one] })).outputs[0].data;
  const binary = await post("/v2/models/mlp/infer", inputs, { "inference-header-content-length": "0" });
  const raw = new DataView(await binary.arrayBuffer()), start = Number(binary.headers.get("inference-header-content-length"));
  scores["v2 FP32 binary"] = Array.from({ length: 10 }, (_, i) => raw.getFloat32(start + 4 * i, true));

  const lost = await fetch(`${base}/v1/models/nobody:classify`, { method: "POST", body: picture });
  facts["error code"] = (await lost.json()).error.code === "model_not_found" && lost.status === 404;
  facts["code in the header"] = lost.headers.get("x-inkling-error-code") === "model_not_found";
  facts.ready = (await fetch(`${base}/readyz`)).ok && (await fetch(`${base}/v2/health/ready`)).ok;
  facts.metadata = (await (await fetch(`${base}/v2/models/mlp`)).json()).inputs[0].name === "inputs";
  const { tflite } = (await (await fetch(`${base}/v1/models/mlp`)).json()).versions[0];
  const file = await (await fetch(`${base}/v1/models/mlp/tflite/${tflite.sha256}`)).arrayBuffer();
  facts["model file"] = file.byteLength === tflite.bytes;
  return { packages, scores, facts };
}

async function grpcJs() {
  const grpc = require("@grpc/grpc-js"), loader = require("@grpc/proto-loader");
  const health = require.resolve("grpc-health-check/proto/health/v1/health.proto");
  const versions = ["@grpc/grpc-js", "@grpc/proto-loader"].map((name) => [name, require(`${name}/package.json`).version]);
  const open = (path) => grpc.loadPackageDefinition(loader.loadSync(path, { keepCase: true, enums: String, defaults: true }));
  const credentials = grpc.credentials.createInsecure();
  const classifier = new (open(proto).inkling.v1.Classifier)(grpcAddress, credentials);
  const call = (stub, method, request) => new Promise((resolve, reject) => stub[method](request, { deadline: Date.now() + 10_000 }, (error, reply) => (error ? reject(error) : resolve(reply))));
  const scores = {}, facts = {};

  const reply = await call(classifier, "Classify", { model: "mlp", images: [picture], top_k: 10 });
  scores.Classify = byIndex(reply.results[0].top);
  facts.ListModels = (await call(classifier, "ListModels", {})).models.some((model) => model.name === "mlp");
  const lost = await call(classifier, "Classify", { model: "nobody", images: [picture] }).catch((error) => error);
  facts["unknown model"] = lost.code === grpc.status.NOT_FOUND && lost.metadata.get("inkling-error-code")[0] === "model_not_found";

  const stream = classifier.ClassifyStream();
  const streamed = new Promise((resolve, reject) => stream.on("data", resolve).on("error", reject));
  stream.write({ id: "a1", request: { model: "mlp", images: [picture], top_k: 10 } });
  stream.end();
  const answer = await streamed;
  facts["stream's id"] = answer.id === "a1";
  scores.ClassifyStream = byIndex(answer.response.results[0].top);

  const probe = new (open(health).grpc.health.v1.Health)(grpcAddress, credentials);
  facts["health Check"] = (await call(probe, "Check", { service: "mlp" })).status === "SERVING";
  const watch = probe.Watch({ service: "" });
  facts["health Watch"] = (await new Promise((resolve, reject) => watch.on("data", resolve).on("error", reject))).status === "SERVING";
  watch.removeAllListeners("error").on("error", () => {});
  watch.cancel();
  for (const stub of [classifier, probe]) stub.close();
  return { packages: Object.fromEntries(versions), scores, facts };
}

try {
  console.log(JSON.stringify(await { fetch: fetchClient, "@grpc/grpc-js": grpcJs }[client]()));
} catch (error) {
  if (error.code !== "MODULE_NOT_FOUND") throw error;
  console.log(error.message.split("\n")[0]);
  process.exit(3);
}
