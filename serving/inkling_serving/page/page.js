// SPDX-License-Identifier: Apache-2.0
// Inkling's page: draw or drop a picture, ask the server, show what the model saw.

const SIDE = 280; // strokes live in this square, whatever the size on the screen
const PEN = 20; // about two pixels of a 28 x 28 model, like a pen's line in a scan
const PAUSE_MS = 120; // after a stroke: short to feel immediate, long enough to start the next stroke
const REFRESH_MS = 5000; // a model that joins later shows up by itself
const RETRY_MS = 2000; // while nothing can answer
const MAX_BYTES = 8 * 1024 * 1024; // the server's usual limit on one picture
const MAX_SIDE = 1600; // of a picture that is encoded anew: its PNG stays below that
const MOST_BARS = 10, MOST_PHOTO_BARS = 5;
const MEMORY = "inkling.model";
const EMPTY = { strokes: [], picture: null };

export const $ = (id) => document.getElementById(id);
const body = document.body, canvas = $("canvas");

let scene = EMPTY; // never changed in place: undo goes back to an older scene
let past = [];
let drawing = null; // the stroke under the pointer: { id, points }
let models = [];
let chosen = { name: "", version: "", ...recall() }; // version "" lets the server decide
let askedFor = ""; // model and version that were served when the shown answer came
let owed = false; // a picture waits for a model that can answer
let request = null; // the one in flight
let answer = null; // the shown one, to show it again at another threshold
let film = null; // the camera's stream while it runs
const again = new WeakMap(); // files -> their pictures as PNGs, where the server does not read the files
let comparing = false; // whether somebody wants to see the scores of this device, too
let pauseTimer, refreshTimer;

// --- small helpers ---

// Keeps the children that are there, so bars glide and images do not blink.
export function fitChildren(parent, count) {
  while (parent.children.length > count) parent.lastElementChild.remove();
  while (parent.children.length < count) parent.append($(`${parent.id}-shape`).content.cloneNode(true));
  return [...parent.children];
}

// Never "100 %" for something that is not certain, never "0 %" for something possible.
export function percent(p) {
  if (p > 0.999 && p < 1) return "> 99.9 %";
  return p > 0 && p < 0.001 ? "< 0.1 %" : `${(p * 100).toFixed(1)} %`;
}
export const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;

// Storage may be switched off in the browser; the page then merely forgets.
function recall() {
  try { return JSON.parse(localStorage.getItem(MEMORY)); } catch { return null; }
}
function remember() {
  try { localStorage.setItem(MEMORY, JSON.stringify(chosen)); } catch { /* as above */ }
}

// --- the paper ---

// Curves through the midpoints of neighbouring points: smooth at any speed of the hand.
function trace(pen, points) {
  pen.beginPath();
  pen.moveTo(points[0].x, points[0].y);
  for (let i = 1; i < points.length - 1; i++) {
    const a = points[i], b = points[i + 1];
    pen.quadraticCurveTo(a.x, a.y, (a.x + b.x) / 2, (a.y + b.y) / 2);
  }
  pen.lineTo(points.at(-1).x + 0.01, points.at(-1).y); // the hair's breadth makes a tap a dot
  pen.stroke();
}

function paintPicture(pen, bitmap) {
  const scale = SIDE / Math.max(bitmap.width, bitmap.height);
  const width = bitmap.width * scale, height = bitmap.height * scale;
  pen.imageSmoothingEnabled = scale < 4; // show a tiny picture's pixels as they are
  pen.drawImage(bitmap, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
}

function paint(target, paper) {
  const pen = target.getContext("2d");
  pen.setTransform(target.width / SIDE, 0, 0, target.height / SIDE, 0, 0);
  pen.clearRect(0, 0, SIDE, SIDE);
  Object.assign(pen, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#111", fillStyle: paper });
  if (paper) pen.fillRect(0, 0, SIDE, SIDE);
  if (scene.picture?.bitmap && !drawing) paintPicture(pen, scene.picture.bitmap);
  if (!scene.picture) for (const stroke of scene.strokes) trace(pen, stroke);
  if (drawing) trace(pen, drawing.points);
}

const isEmpty = () => !scene.strokes.length && !scene.picture;
function showScene() {
  body.classList.toggle("inked", !isEmpty() || drawing !== null);
  $("clear").disabled = isEmpty() && !film;
  $("undo").disabled = !past.length;
  const nameOnly = !drawing && scene.picture && !scene.picture.bitmap;
  $("filename").textContent = nameOnly ? scene.picture.name : "";
  paint(canvas);
}

function settle(next) {
  scene = next;
  showScene();
  clearTimeout(pauseTimer);
  if (isEmpty()) forgetAnswer();
  else pauseTimer = setTimeout(classify, PAUSE_MS);
}
function change(next) {
  past.push(scene);
  settle(next);
}
function undo() {
  if (past.length && !drawing) settle(past.pop());
}

function pointOf(event) {
  const box = canvas.getBoundingClientRect();
  return { x: (event.clientX - box.left) * SIDE / box.width, y: (event.clientY - box.top) * SIDE / box.height };
}
function penDown(event) {
  if (drawing || event.button !== 0 || body.classList.contains("wants-picture")) return; // a second finger is not a second pen
  canvas.setPointerCapture(event.pointerId);
  clearTimeout(pauseTimer);
  drawing = { id: event.pointerId, points: [pointOf(event)] };
  showScene();
}
function penMove(event) {
  if (event.pointerId !== drawing?.id) return;
  // Between two frames a pen or a fast mouse reports many points; all of them make the line.
  const events = event.getCoalescedEvents?.() ?? [];
  drawing.points.push(...(events.length ? events : [event]).map(pointOf));
  paint(canvas);
}
function penUp(event) {
  if (event.pointerId !== drawing?.id) return;
  const stroke = drawing.points;
  drawing = null;
  change({ strokes: scene.picture ? [stroke] : [...scene.strokes, stroke], picture: null }); // on a picture: a new sheet
}

// PNG and JPEG go out as they are, by their first bytes; others as PNG, since a WebP may be too large for the server.
async function isRead(blob) {
  const start = new Uint8Array(await blob.slice(0, 4).arrayBuffer()).join();
  return blob.size <= MAX_BYTES && (start === "137,80,78,71" || start.startsWith("255,216,255,"));
}

// What the browser shows of a file, turned as its EXIF data say; null where it cannot. Only an <img> shows SVG.
async function shownOf(blob) {
  const bitmap = await createImageBitmap(blob).catch(() => null);
  if (bitmap) return bitmap;
  const image = Object.assign(new Image(), { src: URL.createObjectURL(blob) });
  const decoded = await image.decode().then(() => true, () => false);
  URL.revokeObjectURL(image.src);
  return decoded && image.width ? image : null;
}

function reduced(image, side) {
  const scale = Math.min(1, side / Math.max(image.width, image.height));
  const width = Math.max(1, Math.round(image.width * scale)), height = Math.max(1, Math.round(image.height * scale));
  const sheet = Object.assign(document.createElement("canvas"), { width, height }), pen = sheet.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, 0, 0, width, height);
  return sheet;
}
const asPng = (sheet) => new Promise((resolve) => sheet.toBlob(resolve, "image/png"));

async function takePicture(blob) {
  if (!blob) return;
  closeCamera();
  const image = await shownOf(blob), read = await isRead(blob);
  if (image && !read) again.set(blob, await asPng(reduced(image, MAX_SIDE)));
  // Undo keeps the shown picture, so that it is small.
  change({ strokes: [], picture: { blob, bitmap: image && reduced(image, 1000), name: blob.name || "picture", unknown: !image && !read } });
}

// A picture goes out as it came, if the server reads it; a drawing as dark ink on white paper, whatever the colour scheme.
function pictureBytes() {
  if (scene.picture) return again.get(scene.picture.blob) ?? scene.picture.blob;
  const sheet = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  paint(sheet, "#fff");
  return new Promise((resolve) => sheet.toBlob(resolve, "image/png"));
}

// --- the camera ---

// A phone has a camera of its own for a file field; so has a page that came over plain http from another machine.
async function useCamera() {
  if (film) return takePhoto();
  const media = navigator.mediaDevices;
  if (!media?.getUserMedia || matchMedia("(pointer: coarse)").matches) return $("camera-file").click();
  try {
    film = await media.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return showError({ message: "The camera cannot be used. Allow it for this page in the browser, or choose a picture." });
  }
  $("video").srcObject = film;
  $("video").play();
  showCamera();
}

async function takePhoto() {
  const video = $("video");
  if (!video.videoWidth) return; // it has shown nothing yet
  const sheet = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  sheet.getContext("2d").drawImage(video, 0, 0);
  takePicture(await new Promise((resolve) => sheet.toBlob(resolve, "image/jpeg", 0.95)));
}

function closeCamera() {
  for (const track of film?.getTracks() ?? []) track.stop();
  film = $("video").srcObject = null;
  showCamera();
}
function showCamera() {
  $("video").hidden = !film;
  $("camera").textContent = film ? "Take it" : "Take a photo";
  $("clear").disabled = isEmpty() && !film;
}

// --- asking the server ---

export function pathOf({ name, version }, end) {
  const pinned = version ? `/versions/${encodeURIComponent(version)}` : "";
  return `v1/models/${encodeURIComponent(name)}${pinned}${end}`; // relative: a proxy may serve the page under a path
}

// A server may want an API key; it is kept for as long as this tab is open, and asked for once.
export async function ask(url, options) {
  const key = sessionStorage.getItem("api-key");
  const response = await fetch(url, key ? { ...options, headers: { ...options?.headers, Authorization: `Bearer ${key}` } } : options);
  if (response.status !== 401 || key === "") return response;
  sessionStorage.setItem("api-key", prompt("This server wants an API key:")?.trim() ?? "");
  return ask(url, options);
}

// The device needs the model input, and all scores to compare its own with.
function wanted(version) {
  const most = comparing && runsHere(version) ? `${version.labels.length}&model_input=true` : barsOf(version);
  return `timing=true&top_k=${most}`;
}

async function classify() {
  clearTimeout(pauseTimer);
  request?.abort();
  owed = !isEmpty() && body.dataset.connection !== "ready";
  if (isEmpty() || owed) return;
  if (scene.picture?.unknown) return showError({ message: `This browser cannot show ${scene.picture.name}. Save or export the picture as PNG or JPEG (on an iPhone: Settings, Camera, Formats, Most Compatible).` });
  const mine = request = new AbortController();
  if (body.dataset.answer !== "error") setState("answer", "busy"); // an error stays until there is better news
  try {
    const picture = await pictureBytes();
    if (mine.signal.aborted) return;
    const started = performance.now();
    const response = await ask(`${pathOf(chosen, ":explain")}?${wanted(currentVersion())}`, { method: "POST", body: picture, signal: mine.signal });
    const reply = await response.json();
    if (response.status === 413 && scene.picture?.bitmap && !again.has(scene.picture.blob)) return smaller(scene.picture.blob);
    if (response.ok) showAnswer(reply, performance.now() - started, response.headers);
    else showError(reply.error, response.status);
  } catch {
    if (!mine.signal.aborted) connectionBroke(mine);
  }
}

// A picture that is too large is asked once more, reduced.
async function smaller(blob) {
  const image = await shownOf(blob);
  again.set(blob, await asPng(reduced(image, MAX_SIDE)));
  if (scene.picture?.blob === blob) classify();
}

// Is the server gone, or did it only hang up on this picture? Asking again would not help the second.
async function connectionBroke(mine) {
  await refresh();
  if (request !== mine) return;
  owed = body.dataset.connection !== "ready";
  if (owed) setState("answer", body.classList.contains("answered") ? "done" : "empty");
  else showError({ message: "The connection broke while the picture was on its way. Perhaps it is too large." });
}

// --- showing ---

function setState(which, value) {
  body.dataset[which] = value;
  const { connection, answer } = body.dataset;
  $("status").dataset.state = connection === "ready" ? answer : connection;
}
function say(text, small = "") {
  if ($("status-text").textContent !== text) $("status-text").textContent = text; // read out once, not at each retry
  $("status-small").textContent = small;
}

function clearAnswer(state) {
  answer = null;
  body.classList.remove("answered");
  for (const id of ["answer", "sure", "bars", "stages"]) $(id).replaceChildren();
  $("device").hidden = $("feedback").hidden = true;
  showFacts();
  setState("answer", state);
}
function forgetAnswer() {
  request?.abort();
  owed = false;
  clearAnswer("empty");
}
function showError(error, status) {
  say(error.message, error.request_id ? `Request ${error.request_id}` : "");
  clearAnswer("error");
  owed = status === 503; // a model on its way in or out: asked again as soon as the list says it serves
  if (owed) refreshSoon(RETRY_MS);
}

function showAnswer(reply, roundTrip, headers) {
  answer = reply;
  askedFor = servedNow();
  body.classList.add("answered");
  showLabels();
  showSeen(reply.stages ?? []);
  const phases = phasesOf(headers.get("Server-Timing"));
  showFacts({ ...reply, roundTrip, onServer: Object.values(phases).reduce((a, b) => a + b, 0) });
  showDevice(reply, phases.engine);
  showFeedback(headers);
  setState("answer", "done");
}
// The milliseconds of each phase, from the header Server-Timing.
const phasesOf = (timing) => Object.fromEntries([...(timing ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]));

// Only an answer that the server has captured takes feedback.
async function showFeedback(headers) {
  const mine = answer, captured = headers.get("X-Inkling-Captured") === "true", labels = currentVersion()?.labels ?? [];
  $("feedback").hidden = true;
  if (!captured) return;
  const { offer } = await import("./feedback.js");
  if (answer !== mine) return;
  offer(headers.get("X-Request-Id"), labels);
  $("feedback").hidden = false;
}

// --- this device ---

// The device computes in float32; a file of whole numbers would have to be given whole numbers.
const runsHere = (version) => ["float32", "float16"].includes(version?.tflite?.format);

// LiteRT.js and the model's file are loaded when somebody asks for them, and not before.
async function showDevice(reply, engineMs) {
  const version = find(reply.model)?.versions.find((v) => v.version === reply.version), possible = runsHere(version);
  $("device").hidden = !possible;
  if (!possible || !reply.model_input) return;
  try {
    const { compare } = await import("./device.js");
    compare(reply, version, engineMs);
  } catch {
    $("device-note").textContent = "This browser could not load LiteRT.js from the server. Load the page again.";
  }
}
function startDevice() {
  comparing = true;
  $("compare").hidden = true;
  $("device-note").textContent = "Loading LiteRT.js and the model …";
  classify();
}

function showLabels() {
  const [{ label, probability, top }] = answer.results;
  if (!hasSeveral(currentVersion())) {
    showVerdict(label, `${probability < 0.5 ? "only " : ""}${percent(probability)} sure`);
    return showBars(top.slice(0, barsOf(currentVersion())));
  }
  const threshold = Number($("threshold").value), given = top.filter((score) => score.probability >= threshold);
  if (given.length) showVerdict(given.map((score) => score.label).join(", "), `${given.length} of ${top.length} labels`);
  else showVerdict("No label", `the most probable is ${label}, with ${percent(probability)}`);
  showBars(given);
}
function showVerdict(text, sure) {
  const length = [...text].length;
  $("answer").dataset.length = length <= 2 ? "sign" : length <= 10 ? "word" : "phrase";
  $("answer").textContent = text;
  $("sure").textContent = sure;
}
function moveThreshold() {
  $("threshold-value").textContent = Number($("threshold").value).toFixed(2);
  showCommand();
  if (answer) showLabels();
}

function showBars(scores) {
  fitChildren($("bars"), scores.length).forEach((bar, i) => {
    const { label, probability } = scores[i], [name, track, value] = bar.children;
    bar.dataset.label = name.textContent = label;
    value.textContent = percent(probability);
    track.firstElementChild.style.width = `${Math.round(probability * 100)}%`;
  });
}

// A photo is shown as large as the model saw it, pixel by pixel; a drawing would be too small.
function showSeen(stages) {
  const last = stages.at(-1), whole = body.classList.contains("wants-picture") && last?.image?.b64;
  $("seen").hidden = !whole;
  showStages(whole ? stages.slice(0, -1) : stages);
  if (!whole) return;
  const [picture, caption] = $("seen").children, { width, height } = last;
  Object.assign(picture, { src: `data:image/png;base64,${last.image.b64}`, width, height, alt: `The model input, ${width} by ${height} pixels` });
  caption.textContent = `${width} × ${height} pixels, as the model gets them`;
}

function showStages(stages) {
  fitChildren($("stages"), stages.length).forEach((figure, i) => {
    const { name, decision, width, height, image } = stages[i], picture = figure.querySelector("img");
    figure.dataset.stage = name;
    figure.querySelector("b").textContent = name.replaceAll("_", " ");
    figure.querySelector("span").textContent = decision ?? "";
    picture.hidden = !image?.b64;
    picture.classList.toggle("tiny", Math.max(width, height) <= 64);
    picture.alt = `The picture after the stage ${name}, ${width} by ${height} pixels`;
    if (image?.b64) picture.src = `data:image/png;base64,${image.b64}`;
  });
}

function driftText(drift) {
  if (!drift) return "";
  if (!drift.has_baseline) return "no baseline";
  const largest = Object.entries(drift.index).sort(([, a], [, b]) => b - a)[0];
  return largest ? `${largest[1].toFixed(2)} (${largest[0]})` : "";
}

function showFacts(reply) {
  const served = (reply ? find(reply.model)?.versions.find((v) => v.version === reply.version) : currentVersion()) ?? {};
  const { version, contract = "", accuracy, dataset, roundTrip, onServer } = { ...served, ...reply };
  const facts = [
    ["Version", version && versionText({ ...served, version })],
    ["Contract", contract.replace(/^sha256:/, "").slice(0, 12), contract],
    ["Accuracy", accuracy && `${(accuracy * 100).toFixed(2)} % on ${!dataset || dataset === "not stated" ? "its pictures" : dataset}`],
    ["Drift", driftText(served.drift), "The largest population stability index of recent pictures; above 0.25, they differ from the test set"],
    ["Round trip", roundTrip && milliseconds(roundTrip)],
    ["Server", onServer && milliseconds(onServer)],
  ].filter(([, value]) => value);
  fitChildren($("facts"), facts.length).forEach((fact, i) => {
    const [name, value, whole = ""] = facts[i], [term, shown] = fact.children;
    fact.dataset.fact = term.textContent = name;
    Object.assign(shown, { textContent: value, title: whole });
  });
}

// --- the list of models ---

const find = (name) => models.find((model) => model.name === name);
const available = (model) => (model?.versions ?? []).filter((v) => v.state === "AVAILABLE");
const isReady = (model) => available(model).length > 0;
const isStable = (v) => v.version_labels.includes("stable"); // it answers, if no version is named
const currentVersion = () => {
  const found = available(find(chosen.name));
  return chosen.version ? found.find((v) => String(v.version) === chosen.version) : found.find(isStable) ?? found[0];
};
const servedNow = () => `${chosen.name} ${currentVersion()?.version}`;
const versionText = (v) => [v.version, ...(v.version_labels ?? [])].join(" · ");

function refreshSoon(ms) {
  clearTimeout(refreshTimer);
  refreshTimer = setTimeout(refresh, ms);
}
async function refresh() {
  try {
    const response = await ask("v1/models", { cache: "no-store", signal: AbortSignal.timeout(4000) });
    const reply = await response.json();
    if (!response.ok && response.status !== 503) throw new Error(reply.error?.message);
    takeModels(reply.models ?? []);
  } catch {
    say("The server does not answer.", "This page tries again every two seconds. Your picture stays.");
    setState("connection", "offline");
  }
  refreshSoon(body.dataset.connection === "ready" ? REFRESH_MS : RETRY_MS);
}

function takeModels(list) {
  models = list;
  // What somebody chose stays chosen as long as it can answer.
  if (!currentVersion()) chosen = { ...chosen, version: "" };
  if (!currentVersion()) chosen = { name: models.find(isReady)?.name ?? (chosen.name || models[0]?.name), version: "" };
  showPickers();
  showUnready();
  if (!currentVersion()) return showWaiting();
  setState("connection", "ready");
  showInvitation();
  const stale = body.dataset.answer === "done" && askedFor !== servedNow();
  if (owed || stale) classify();
  else if (body.dataset.answer === "empty") showFacts();
}

function showWaiting() {
  const versions = models.flatMap((model) => model.versions ?? []);
  const failed = versions.length && versions.every((v) => v.state === "FAILED");
  say(failed ? "No model could be loaded." : "The models are still training.", "The first that is ready appears here by itself.");
  setState("connection", "waiting");
}

// An open list would close when its options are replaced, so only a real change replaces them.
function fillSelect(select, options, value) {
  if (select.dataset.options !== JSON.stringify(options)) {
    select.dataset.options = JSON.stringify(options);
    select.replaceChildren(...options.map(([key, text, disabled]) => Object.assign(new Option(text, key), { disabled })));
  }
  select.value = value;
}

function showPickers() {
  const versions = available(find(chosen.name));
  fillSelect($("model"), models.map((m) => [m.name, isReady(m) ? m.name : `${m.name} (not ready)`, !isReady(m)]), chosen.name);
  fillSelect($("version"), [["", "default"], ...versions.map((v) => [String(v.version), versionText(v)])], chosen.version);
  $("model").disabled = !models.some(isReady);
  $("version-picker").hidden = versions.length < 2;
  $("ask").hidden = !versions.length;
  showCommand();
}
function showCommand() {
  const url = new URL(pathOf(chosen, ":classify"), document.baseURI), several = hasSeveral(currentVersion());
  $("curl").textContent = `curl --data-binary @picture.png ${several ? `'${url}?threshold=${Number($("threshold").value)}'` : url}`;
}

function showUnready() {
  const lines = models.flatMap((model) => {
    const pending = (model.versions ?? []).filter((v) => ["LOADING", "FAILED"].includes(v.state));
    return (pending.length || isReady(model) ? pending : [{}]).map((v) => ({ name: model.name, ...v }));
  });
  fitChildren($("unready"), lines.length).forEach((line, i) => {
    const { name, version, state, reason } = lines[i], [title, why] = line.children;
    const what = { LOADING: "is loading", FAILED: "could not be loaded" }[state] ?? "is not ready";
    title.textContent = version ? `${name} ${version}` : name;
    why.textContent = reason ? `${what}: ${reason}` : what;
  });
}

// A model with a search for the object is drawn for; so is one of signs of one or two characters (digits, letters) that
// turns dark ink on light paper over. Coats and cats are photographed.
function isDrawn({ kind, labels = [], input, contract_json }) {
  if (kind === "photo_of_one_object") return true;
  const signs = input?.channels !== 3 && labels.every((label) => [...label].length <= 2);
  return signs && JSON.parse(contract_json ?? "{}").polarity !== "as_is";
}
// Whether a picture may have several labels, each with a probability of its own.
const hasSeveral = (version) => version?.outputs === "sigmoid";
function barsOf(version) {
  if (hasSeveral(version)) return version.labels.length;
  return isDrawn(version) ? MOST_BARS : MOST_PHOTO_BARS;
}

function showInvitation() {
  const version = currentVersion(), labels = version.labels ?? [], drawn = isDrawn(version), few = drawn ? 3 : 9;
  const known = (labels.length > few + 1 ? `${labels.slice(0, few).join(", ")} … ${labels.at(-1)}` : labels.join(", ")) || "what it knows";
  $("invite").textContent = drawn
    ? `Draw one of ${known} on the paper, or drop, paste or choose a picture.`
    : `Drop, paste, take or choose a picture: ${known}.`;
  body.classList.toggle("wants-picture", !drawn);
  canvas.setAttribute("aria-label", drawn ? "Paper to draw on with a mouse, finger or pen; a picture can be chosen instead" : "Your picture");
  $("several").hidden = !hasSeveral(version);
  $("bars").classList.toggle("given", hasSeveral(version));
  if (drawn) closeCamera();
  if (!drawn && scene.strokes.length) change(EMPTY); // a drawing means nothing to it
}

function choose(name, version) {
  chosen = { name, version };
  remember();
  owed = !isEmpty(); // what is on the paper is asked of the new model at once
  takeModels(models);
}

function copyCommand() {
  // The old way, because navigator.clipboard is missing on plain http from another machine.
  getSelection().selectAllChildren($("curl"));
  document.execCommand("copy");
  $("copy").textContent = "Copied";
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
}

// --- wiring ---

const on = (target, type, act) => target.addEventListener(type, act);
const pen = { pointerdown: penDown, pointermove: penMove, pointerup: penUp, pointercancel: penUp };
for (const [type, act] of Object.entries(pen)) on(canvas, type, act);
on($("undo"), "click", undo);
on($("clear"), "click", () => (film ? closeCamera() : change(EMPTY)));
on($("camera"), "click", useCamera);
on($("threshold"), "input", moveThreshold);
on($("compare"), "click", startDevice);
on($("copy"), "click", copyCommand);
on($("model"), "change", (event) => choose(event.target.value, ""));
on($("version"), "change", (event) => choose(chosen.name, event.target.value));
for (const id of ["file", "camera-file"]) on($(id), "change", (event) => {
  takePicture(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
on(window, "keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z") undo();
});
on(window, "paste", (event) => takePicture(event.clipboardData?.files[0]));
on(window, "dragover", (event) => { event.preventDefault(); body.classList.add("dragging"); });
on(window, "dragleave", (event) => { if (!event.relatedTarget) body.classList.remove("dragging"); });
on(window, "drop", (event) => {
  event.preventDefault(); // otherwise the browser would leave the page for the file
  body.classList.remove("dragging");
  takePicture(event.dataTransfer?.files[0]);
});
new ResizeObserver(() => {
  canvas.width = canvas.height = Math.round(canvas.clientWidth * devicePixelRatio);
  paint(canvas);
}).observe(canvas);

refresh();
