// SPDX-License-Identifier: Apache-2.0
// The same model on this device: LiteRT.js runs the version's TFLite file in the browser.
//
// The model input comes from the server. There is one code that prepares pictures, and it is not in JavaScript; so
// this compares what two engines make of the same input, score by score.

import { $, ask, fitChildren, milliseconds, pathOf, percent } from "./page.js";
import { loadAndCompile, loadLiteRt, Tensor } from "./litert/core.js";

const RUNTIME = new URL("litert/litert_wasm_compat_internal.js", import.meta.url).href;
const ROWS = 5;

let runtime = null; // LiteRT.js, once it is asked for
let loaded = { sha256: "" }; // the model that was used last, and its file
let latest = null; // the newest comparison; older ones show nothing

export async function compare(reply, version, serverMs) {
  const mine = latest = {};
  try {
    const model = await modelOf(reply.model, version);
    const found = await run(model, reply.model_input, version.outputs);
    if (mine === latest) show(reply.results[0].top, found, version, serverMs);
  } catch (error) {
    loaded = { sha256: "" };
    if (mine === latest) fail(error);
  }
}

// --- running ---

function modelOf(name, version) {
  if (loaded.sha256 !== version.tflite.sha256) loaded = { sha256: version.tflite.sha256, model: load(name, version, loaded.model) };
  return loaded.model;
}

async function load(name, version, former) {
  runtime ??= loadLiteRt(RUNTIME);
  const [content] = await Promise.all([download(name, version), runtime]);
  (await former?.catch(() => null))?.delete(); // its memory is not JavaScript's
  return loadAndCompile(forOne(content), { accelerator: "wasm" });
}

// A published file takes any number of pictures: its tensors state -1 in place of that number. LiteRT.js refuses
// such tensors, so the number becomes 1. The positions are those of TFLite's schema for FlatBuffers.
function forOne(content) {
  const SUBGRAPHS = 2, TENSORS = 0, SHAPE_SIGNATURE = 7;
  const view = new DataView(content.buffer), int = (at) => view.getInt32(at, true), short = (at) => view.getUint16(at, true);
  const field = (table, number) => {
    const known = table - int(table), place = 4 + 2 * number, offset = place < short(known) && short(known + place);
    return offset ? table + offset + int(table + offset) : null;
  };
  const items = (vector) => (vector === null ? [] : Array.from({ length: int(vector) }, (_, i) => vector + 4 + 4 * i));
  const tables = (vector) => items(vector).map((at) => at + int(at));
  for (const tensor of tables(field(int(0), SUBGRAPHS)).flatMap((graph) => tables(field(graph, TENSORS)))) {
    const [number] = items(field(tensor, SHAPE_SIGNATURE));
    if (number !== undefined && int(number) === -1) view.setInt32(number, 1, true);
  }
  return content;
}

// The address has the file's SHA-256, so that the browser may keep the file for good.
async function download(name, { version, tflite }) {
  const response = await ask(pathOf({ name, version }, `/tflite/${tflite.sha256}`));
  if (!response.ok) throw new Error((await response.json()).error.message);
  const content = new Uint8Array(await response.arrayBuffer());
  if (content.length !== tflite.bytes) throw new Error(`The model's file came with ${content.length} bytes; expected ${tflite.bytes}.`);
  return content;
}

async function run(model, input, outputs) {
  const bytes = Uint8Array.from(atob(input.b64), (c) => c.charCodeAt(0));
  const tensor = new Tensor(new Float32Array(bytes.buffer), [1, ...input.shape]);
  try {
    await outputOf(model, tensor); // the first run also prepares the memory
    const started = performance.now(), output = await outputOf(model, tensor);
    return { ms: performance.now() - started, scores: scoresOf(output, outputs) };
  } finally {
    tensor.delete();
  }
}

async function outputOf(model, tensor) {
  const results = await model.run([tensor]);
  try {
    return [...await results[0].data()];
  } finally {
    for (const one of results) one.delete();
  }
}

// The probabilities of the labels, as the contract's `outputs` says.
export function scoresOf(output, outputs) {
  if (outputs === "binary") return [1 - output[0], output[0]];
  if (outputs !== "logits") return output;
  const most = Math.max(...output), powers = output.map((value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

// --- showing ---

function show(top, { scores, ms }, version, serverMs) {
  const rows = top.slice(0, ROWS).map(({ label, index, probability }) => [label, percent(probability), percent(scores[index])]);
  rows.push(["Time in the engine", serverMs ? milliseconds(serverMs) : "", milliseconds(ms)]);
  fitChildren($("device-rows"), rows.length).forEach((row, i) => {
    [...row.children].forEach((cell, place) => { cell.textContent = rows[i][place]; });
    row.classList.toggle("time", i === rows.length - 1);
  });
  $("device-table").hidden = false;
  say(...verdict(top, scores, version));
}

function verdict(top, scores, { labels, contract_json, tflite }) {
  const allowed = JSON.parse(contract_json).tolerances[tflite.format];
  const difference = Math.max(...top.map(({ index, probability }) => Math.abs(probability - scores[index])));
  const best = scores.indexOf(Math.max(...scores));
  const agrees = scores.length === labels.length && difference <= allowed && best === top[0].index; // NaN does not agree
  const words = `The largest difference of a score is ${difference && difference.toExponential(1)}; the contract allows ${allowed}.`;
  $("device").dataset.difference = difference;
  return agrees ? ["agrees", `The same answer. ${words}`] : ["differs", `This device answers ${labels[best] ?? "nothing"}. ${words}`];
}

function fail(error) {
  $("device-table").hidden = true;
  say("failed", `This device could not run the model: ${error.message ?? error}`);
}

function say(state, text) {
  $("device").dataset.state = state;
  $("device-note").textContent = text;
}
