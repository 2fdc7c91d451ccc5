// SPDX-License-Identifier: Apache-2.0
// "That was wrong": asks which label is right, and sends it to the server.

import { $, ask } from "./page.js";

let asked = ""; // the id of the request that the shown answer is for

// Shows the button for an answer that the server has captured.
export function offer(requestId, labels) {
  asked = requestId;
  $("wrong").hidden = false;
  $("right-box").hidden = true;
  $("thanks").textContent = "";
  $("right").replaceChildren(new Option("Choose …", ""), ...labels.map((label) => new Option(label, label)));
  $("wrong").onclick = choose;
  $("right").onchange = send;
}

function choose() {
  $("wrong").hidden = true;
  $("right-box").hidden = false;
  $("right").focus();
}

async function send() {
  const id = asked, label = $("right").value;
  if (!label) return;
  const body = JSON.stringify({ request_id: id, label });
  let said = "The server could not be reached. Choose again.";
  try {
    const response = await ask("v1/feedback", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    said = response.ok ? `Thank you. It is noted as ${label}.` : (await response.json()).error.message;
  } catch { /* it is said above */ }
  if (asked === id) $("thanks").textContent = said;
}
