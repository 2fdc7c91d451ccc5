// SPDX-License-Identifier: Apache-2.0
// Shows /openapi.json with Swagger UI, which asks no other server for anything.

SwaggerUIBundle({
  url: "openapi.json",
  domNode: document.getElementById("docs"),
  validatorUrl: null, // by default, a server of Swagger's checks the document
  deepLinking: true,
  tryItOutEnabled: true,
});
