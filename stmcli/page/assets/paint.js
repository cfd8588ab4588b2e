"use strict";
// Look through frames and paint on them. Labels are ids in a Uint16Array; the canvas only shows them.
const $ = id => document.getElementById(id);
const canvas = $("paint"), context = canvas.getContext("2d", {willReadFrequently: true});
const UNDO = 20, VOID = 255, ENDED = "stm has ended; start it again";
let clip, place = 0, labels, erasing = false, fitting = false, last = null, past = [], chosen;
let edits = 0, kept = 0;  // how often labels were changed, and how many of these changes are saved or given up
let saving = Promise.resolve(), loads = 0;  // what is sent goes one after the other

async function start() {
  clip = await (await fetch("clip.json")).json();
  document.title = clip.words.title;
  for (const id of ["save", "forget", "then"]) $(id).textContent = clip.words[id];
  document.body.classList.toggle("single", clip.frames.length < 2);  // nowhere to go
  $("name").textContent = clip.name;
  canvas.width = clip.width;
  canvas.height = clip.height;
  $("stage").style.setProperty("--shape", clip.width / clip.height);
  $("object").append(new Option("another id", "new"));
  clip.objects.forEach(addObject);
  chosen = $("object").value = clip.objects[0] ?? "new";
  drawTimeline();
  offer(clip.command);
  const first = clip.frames.findIndex(frame => frame.confidence < clip.doubtful);
  await show(first < 0 ? 0 : first);
}

function addObject(id) {
  if ($("object").querySelector(`[value="${id}"]`)) return;
  $("object").insertBefore(new Option(`object ${id}`, id), $("object").querySelector("[value=new]"));
}

function drawTimeline() {
  const line = $("timeline"), most = 400, step = Math.max(1, Math.ceil(clip.frames.length / most));
  line.replaceChildren();
  for (let at = 0; at < clip.frames.length; at += step) {
    const part = clip.frames.slice(at, at + step), bar = document.createElement("i");
    const sure = Math.min(...part.map(frame => frame.confidence));
    bar.style.height = `${Math.max(4, 100 * sure)}%`;
    bar.classList.toggle("doubtful", sure < clip.doubtful);
    bar.classList.toggle("corrected", part.some(frame => frame.corrected));
    line.append(bar);
  }
  line.append(document.createElement("b"));
  movePointer();
}

function movePointer() {
  $("timeline").querySelector("b").style.left = `${100 * (place + .5) / clip.frames.length}%`;
}

function offer(command) {
  $("command").textContent = command;
  $("corrected").hidden = !command;
}

function say(text) { $("state").textContent = text; }

function mayLeave(since) {
  return edits === since || confirm("This frame has changes that are not saved. Leave them?");
}

async function show(to) {
  await saving;
  if (to >= 0 && to < clip.frames.length && mayLeave(kept)) await load(to);
}

async function faultIn(answer) {
  return answer.json().then((said) => said.error, () => "not there");
}

async function load(to) {
  const frame = clip.frames[to], now = ++loads, before = edits;
  const answer = await fetch(`labels/${frame.frame}`).catch(() => null);
  if (!answer) return say(ENDED);
  if (!answer.ok) return say(await faultIn(answer));
  const found = new Uint16Array(await answer.arrayBuffer());
  if (now !== loads || !mayLeave(before)) return;  // another frame was asked for since, or this one painted on
  place = to;
  labels = found;
  kept = edits;
  last = null;
  past = [];
  for (let at = 0, before = 0; at < found.length; before = found[at++])
    if (found[at] !== before && found[at] && found[at] !== VOID) addObject(found[at]);
  $("picture").className = "stale";  // that of the frame before
  $("picture").onload = () => { $("picture").className = ""; };
  $("picture").onerror = () => fetch(`picture/${frame.frame}`).then(faultIn).then(say);
  $("picture").src = `picture/${frame.frame}`;
  $("number").textContent = `frame ${frame.frame}`;
  $("confidence").textContent = `confidence ${frame.confidence.toFixed(2)}${frame.cut ? ", a new scene" : ""}`;
  say(frame.corrected ? clip.words.saved : clip.words.as_it_was);
  movePointer();
  draw(0, 0, clip.width, clip.height);
  return true;
}

function colourOf(id) { return clip.colours[(id - 1) % 255]; }

function draw(left, top, right, bottom) {
  left = Math.max(0, Math.floor(left)); top = Math.max(0, Math.floor(top));
  right = Math.min(clip.width, Math.ceil(right)); bottom = Math.min(clip.height, Math.ceil(bottom));
  if (left >= right || top >= bottom) return;
  const image = context.createImageData(right - left, bottom - top), alpha = 2.55 * $("opacity").value;
  let at = 0;
  for (let y = top; y < bottom; y++)
    for (let x = left; x < right; x++, at += 4) {
      const id = labels[y * clip.width + x];
      if (!id) continue;
      const [red, green, blue] = colourOf(id);
      image.data[at] = red; image.data[at + 1] = green; image.data[at + 2] = blue; image.data[at + 3] = alpha;
    }
  context.putImageData(image, left, top);
}

function scale() { return clip.width / canvas.getBoundingClientRect().width; }
function radius() { return Math.max(.75, $("width").value * scale() / 2); }

function point(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * scale(), (event.clientY - box.top) * scale()];
}

function remember() {
  say("not saved");
  past.push(labels.slice());
  if (past.length > UNDO) past.shift();
}

function replace(found) {
  remember();
  labels = found;
  edits++;
  draw(0, 0, clip.width, clip.height);
}

function stroke([x0, y0], [x1, y1]) {
  const r = radius(), id = erasing ? 0 : Number($("object").value), length = Math.hypot(x1 - x0, y1 - y0);
  const steps = Math.max(1, Math.ceil(length / Math.max(.5, r / 2)));
  for (let step = 0; step <= steps; step++)
    dab(x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps, r, id);
  edits++;
  draw(Math.min(x0, x1) - r - 1, Math.min(y0, y1) - r - 1, Math.max(x0, x1) + r + 1, Math.max(y0, y1) + r + 1);
}

function dab(x, y, r, id) {
  for (let row = Math.max(0, Math.floor(y - r)); row <= Math.min(clip.height - 1, y + r); row++) {
    const half = Math.sqrt(Math.max(0, r * r - (row + .5 - y) ** 2));
    const from = Math.max(0, Math.round(x - half)), to = Math.min(clip.width, Math.round(x + half));
    if (from < to) labels.fill(id, row * clip.width + from, row * clip.width + to);
  }
}

canvas.addEventListener("pointerdown", event => {
  if (event.button !== 0 || !labels) return;
  canvas.setPointerCapture(event.pointerId);
  remember();
  last = point(event);
  stroke(last, last);
});
canvas.addEventListener("pointermove", event => {
  const cursor = $("cursor"), box = $("stage").getBoundingClientRect();
  cursor.style.cssText = `display:block;width:${$("width").value}px;height:${$("width").value}px;` +
    `left:${event.clientX - box.left}px;top:${event.clientY - box.top}px`;
  if (!last) return;
  const now = point(event);
  stroke(last, now);
  last = now;
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { last = null; });
canvas.addEventListener("pointerleave", () => { $("cursor").style.display = "none"; });

function undo() {
  if (!past.length) return;
  say("not saved");
  labels = past.pop();
  edits++;
  draw(0, 0, clip.width, clip.height);
}

function fill() {  // what no way through background or other objects leads to from the edge of the frame
  if (!labels) return;
  const {width, height} = clip, id = Number($("object").value), outside = new Uint8Array(width * height), todo = [];
  const reach = at => { if (!outside[at] && labels[at] !== id) { outside[at] = 1; todo.push(at); } };
  for (let x = 0; x < width; x++) { reach(x); reach((height - 1) * width + x); }
  for (let y = 0; y < height; y++) { reach(y * width); reach(y * width + width - 1); }
  while (todo.length) {
    const at = todo.pop(), x = at % width;
    if (x) reach(at - 1);
    if (x < width - 1) reach(at + 1);
    if (at >= width) reach(at - width);
    if (at < outside.length - width) reach(at + width);
  }
  replace(labels.map((label, at) => label || (outside[at] ? 0 : id)));
}

async function fit() {
  if (fitting || !labels) return;
  const before = edits, now = loads;
  fitting = true;
  say("fitting");
  const answer = await fetch(`fitted/${clip.frames[place].frame}`, {method: "POST", body: labels}).catch(() => null);
  fitting = false;
  if (!answer) return say(ENDED);
  if (!answer.ok) return say(await faultIn(answer));
  const found = new Uint16Array(await answer.arrayBuffer());
  if (edits !== before || now !== loads) return say("not fitted, for it was painted on since; fit it again");
  replace(found);
  say("fitted, not saved");
}

function send(method) {
  return saving = saving.then(() => answered(method));
}

async function answered(method) {
  const frame = clip.frames[place], sent = edits;
  const body = method === "POST" ? labels : undefined;
  const answer = await fetch(`labels/${frame.frame}`, {method, body}).catch(() => null);
  if (!answer) return say(ENDED);
  const said = await answer.json().catch(() => ({error: "not saved; try again"}));
  if (!answer.ok || said.error) return say(said.error);
  kept = Math.max(kept, sent);  // what was painted since is not
  frame.corrected = method === "POST";
  offer(said.command);
  drawTimeline();
  if (method === "POST") say(`saved as ${said.file}${edits === sent ? "" : ", but for what was painted since"}`);
  else if (frame === clip.frames[place] && mayLeave(sent)) {
    const before = [...past, labels];  // what was given up by mistake comes back with undo
    if (await load(place)) past = before;
  }
}

function use(eraser) {
  erasing = eraser;
  $("brush").setAttribute("aria-pressed", !eraser);
  $("eraser").setAttribute("aria-pressed", eraser);
}

function nextDoubtful() {
  const later = clip.frames.findIndex((frame, at) => at > place && frame.confidence < clip.doubtful);
  if (later < 0) say("no doubtful frame after this one");
  else show(later);
}

$("object").addEventListener("change", event => {
  if (event.target.value === "new") {
    const id = Number(prompt("The id of the object, 1 to 65534, not 255"));
    const fits = Number.isInteger(id) && id > 0 && id < 65535 && id !== VOID;
    if (fits) addObject(id);
    event.target.value = fits ? id : chosen;
  }
  chosen = event.target.value;
  use(false);
});
const wait = action => () => { action(); };
$("previous").onclick = wait(() => show(place - 1));
$("next").onclick = wait(() => show(place + 1));
$("doubtful").onclick = nextDoubtful;
$("brush").onclick = () => use(false);
$("eraser").onclick = () => use(true);
$("fill").onclick = () => fill();
$("fit").onclick = () => fit();
$("undo").onclick = undo;
$("save").onclick = () => send("POST");
$("forget").onclick = () => send("DELETE");
$("opacity").oninput = () => draw(0, 0, clip.width, clip.height);
$("zoom").oninput = () => {  // what is in the middle stays there
  const view = $("viewport"), middle = (from, shown, whole) => (from + shown / 2) / whole;
  const x = middle(view.scrollLeft, view.clientWidth, view.scrollWidth);
  const y = middle(view.scrollTop, view.clientHeight, view.scrollHeight);
  $("stage").style.setProperty("--zoom", $("zoom").value / 100);
  view.scrollLeft = x * view.scrollWidth - view.clientWidth / 2;
  view.scrollTop = y * view.scrollHeight - view.clientHeight / 2;
};
$("timeline").onpointerdown = event => {
  const box = $("timeline").getBoundingClientRect();
  show(Math.min(clip.frames.length - 1, Math.floor((event.clientX - box.left) / box.width * clip.frames.length)));
};
document.addEventListener("keydown", event => {
  if (event.target.matches("input, select")) return;
  const keys = {ArrowLeft: () => show(place - 1), ArrowRight: () => show(place + 1), d: nextDoubtful,
    b: () => use(false), e: () => use(true), f: fill, t: fit, s: () => send("POST")};
  const key = event.key.length > 1 ? event.key : event.key.toLowerCase();  // with Caps Lock too
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && key === "z") undo();
  else if (!event.ctrlKey && !event.metaKey && keys[key]) keys[key]();
  else return;
  event.preventDefault();
});
window.addEventListener("beforeunload", event => { if (edits !== kept) event.preventDefault(); });
start();
