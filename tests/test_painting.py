"""The script of the review page in Node, where there is one: what is painted while an answer is under way."""

import json
import shutil
import subprocess

import pytest

from stmcli.page import ASSETS

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no Node here: the script of the page was not run")

PAGE = """
"use strict";
class Part {
  constructor() {
    const classes = {};
    const classList = {toggle(name, on) { classes[name] = on; }};
    Object.assign(this, {style: {setProperty() {}}, classes, classList, options: [], heard: {}, value: 1});
  }
  addEventListener(kind, hear) { this.heard[kind] = hear; }
  append(one) { this.options.push(one); }
  insertBefore(one) { this.options.unshift(one); }
  replaceChildren() { this.options = []; }
  querySelector(text) {
    const value = /value="?(\\w+)/.exec(text);
    return value ? this.options.find(one => String(one.value) === value[1]) ?? null : new Part();
  }
  setAttribute() {}
  setPointerCapture() {}
  getBoundingClientRect() { return {left: 0, top: 0, width: 8, height: 6}; }
  getContext() { return {createImageData: (w, h) => ({data: new Uint8Array(4 * w * h)}), putImageData() {}}; }
}
const parts = new Map(), asked = [], questions = [], window = new Part();
const document = Object.assign(new Part(), {
  body: new Part(),
  getElementById: id => parts.get(id) ?? parts.set(id, new Part()).get(id), createElement: () => new Part(),
});
function Option(text, value) { return Object.assign(new Part(), {value}); }
function confirm(text) { questions.push(text); return false; }  // a person who stays
let typed = "7";
function prompt() { return typed; }
function fetch(path, {method = "GET", body} = {}) {
  if (path === "clip.json") return Promise.resolve({ok: true, json: async () => clip_json});
  return new Promise(answer => asked.push({path, method, body: body?.slice(), answer: (said = {}) => answer({
    ok: !said.error, json: async () => ({command: "", file: "f", ...said}),
    arrayBuffer: async () => stored.slice().buffer})}));
}
const words = {title: "t", as_it_was: "as it was", saved: "saved", save: "save", forget: "forget", then: "then"};
const clip_json = {words, name: "clip", width: 8, height: 6, doubtful: 0.5, objects: [3, 5], command: "",
  colours: Array(255).fill([1, 2, 3]),
  frames: [0, 1, 2].map(frame => ({frame, confidence: 0.9, cut: false, corrected: false}))};
const stored = new Uint16Array(48);
const settle = () => new Promise(done => setTimeout(done));
const paint = () => { for (const [kind, x] of [["pointerdown", 2], ["pointermove", 4], ["pointerup", 4]])
  canvas.heard[kind]({button: 0, pointerId: 1, clientX: x, clientY: 3}); };
const is_unsaved = () => {
  let stays = false;
  window.heard.beforeunload({preventDefault() { stays = true; }});
  return stays;
};
const press = key => document.heard.keydown({key, target: {matches: () => false}, preventDefault() {}});
"""
BEGIN = "(async () => { await settle(); asked.pop().answer(); await settle(); $('object').value = 3;\n"


def run(steps):
    """Return what the steps say once the first frame is shown."""
    script = PAGE + (ASSETS / "paint.js").read_text().replace('"use strict";', "") + BEGIN + steps + "})();"
    done = subprocess.run([NODE, "-"], input=script, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_what_is_painted_while_a_save_is_under_way_is_not_saved():
    steps = """
    paint(); press("s"); await settle(); paint(); asked.pop().answer(); await settle();
    const then = is_unsaved();
    press("s"); await settle(); asked.pop().answer(); await settle();
    console.log(JSON.stringify([then, is_unsaved()]));"""
    assert run(steps) == [True, False]


def test_what_is_not_saved_is_said():
    steps = """
    const said = [], tell = () => said.push($("state").textContent);
    tell(); paint(); tell(); press("s"); await settle(); asked.pop().answer(); await settle(); tell();
    undo(); tell(); press("s"); await settle(); paint(); asked.pop().answer(); await settle(); tell();
    press("f"); tell();
    console.log(JSON.stringify(said));"""
    since = "saved as f, but for what was painted since"
    assert run(steps) == ["as it was", "not saved", "saved as f", "not saved", since, "not saved"]


def test_a_stroke_that_is_undone_after_it_was_saved_is_a_change():
    steps = """
    paint(); press("s"); await settle(); asked.pop().answer(); await settle();
    document.heard.keydown({key: "z", ctrlKey: true, target: {matches: () => false}, preventDefault() {}});
    console.log(JSON.stringify(is_unsaved()));"""
    assert run(steps) is True


def test_what_is_painted_while_another_frame_is_on_its_way_is_not_lost_unasked():
    steps = """
    press("ArrowRight"); await settle(); paint(); asked.pop().answer(); await settle();
    console.log(JSON.stringify([questions.length, place, Math.max(...labels)]));"""
    assert run(steps) == [1, 0, 3]


def test_a_frame_is_left_without_a_question_once_its_save_is_answered():
    steps = """
    paint(); press("s"); press("ArrowRight"); await settle();
    asked.pop().answer(); await settle();
    asked.pop().answer(); await settle();
    console.log(JSON.stringify([questions.length, place, clip.frames[0].corrected]));"""
    assert run(steps) == [0, 1, True]


def test_a_save_that_fails_leaves_what_was_painted_unsaved():
    steps = """
    paint(); press("s"); press("ArrowRight"); await settle();
    asked.pop().answer({error: "the disk is full"}); await settle();
    console.log(JSON.stringify([questions.length, place, is_unsaved()]));"""
    assert run(steps) == [1, 0, True]


def test_two_saves_of_a_frame_reach_the_server_one_after_the_other():
    steps = """
    paint(); press("s"); paint(); press("s"); await settle();
    const at_once = asked.length;
    asked.pop().answer(); await settle();
    console.log(JSON.stringify([at_once, asked.length]));"""
    assert run(steps) == [1, 1]


def test_an_id_that_only_the_mask_of_a_frame_has_can_be_painted_with():
    steps = """
    stored[0] = 300; stored[2] = 255;
    press("ArrowRight"); await settle(); asked.pop().answer(); await settle();
    console.log(JSON.stringify($("object").options.map(one => one.value)));"""
    assert run(steps) == [300, 5, 3, "new"]


def test_another_id_that_is_none_leaves_the_object_as_it_was():
    steps = """
    const target = $("object"), choose = (id, text) => {
      typed = text; target.value = id; target.heard.change({target}); return target.value; };
    console.log(JSON.stringify([choose(5), choose("new", null), choose("new", "255"),
      choose("new", "65535"), choose("new", "7")]));"""
    assert run(steps) == [5, 5, 5, 5, 7]  # 65535 alone in a mask is one object without an id


def test_what_an_object_encloses_is_filled_and_nothing_else():
    drawn = ["........", ".333.333", ".3.3.3.3", ".353.3.3", ".333.3.3", "....3353"]
    steps = f"""
    labels.set({json.dumps(drawn)}.join("").split("").map(one => one === "." ? 0 : Number(one)));
    press("f"); const filled = [...labels]; const unsaved = is_unsaved(); undo();
    console.log(JSON.stringify([filled, [...labels], unsaved]));"""
    filled, undone, unsaved = run(steps)
    rows = ["".join(map(str, filled[8 * y : 8 * y + 8])).replace("0", ".") for y in range(6)]
    assert rows == ["........", ".333.333", ".333.3.3", ".353.3.3", ".333.3.3", "....3353"]
    assert "".join(map(str, undone)).replace("0", ".") == "".join(drawn)
    assert unsaved


def test_a_mask_is_fitted_by_the_server_and_then_unsaved_and_can_be_undone():
    steps = """
    paint(); const sent = labels.slice(); stored.fill(5);
    press("t"); await settle();
    const {path, method, body, answer} = asked.pop(); answer(); await settle();
    const fitted = [...labels]; undo();
    console.log(JSON.stringify([path, method, String(body) === String(sent), fitted.every(id => id === 5),
      String(labels) === String(sent), is_unsaved()]));"""
    assert run(steps) == ["fitted/0", "POST", True, True, True, True]


@pytest.mark.parametrize(
    "then", ["paint();", 'press("ArrowRight"); await settle(); asked.pop().answer(); await settle();']
)
def test_what_was_painted_while_it_was_fitted_is_kept(then):
    steps = f"""
    press("t"); await settle(); const fitting = asked.pop();
    {then} const now = String(labels); stored.fill(5); fitting.answer(); await settle();
    console.log(JSON.stringify(String(labels) === now));"""
    assert run(steps) is True


def test_a_fit_that_fails_is_said_and_leaves_what_was_painted():
    steps = """
    paint(); const before = String(labels); press("t"); await settle();
    asked.pop().answer({error: "no such frame"}); await settle();
    console.log(JSON.stringify([$("state").textContent, String(labels) === before]));"""
    assert run(steps) == ["no such frame", True]


def test_a_mask_is_fitted_once_at_a_time():
    steps = """
    press("t"); press("t"); await settle(); const at_once = asked.length;
    asked.pop().answer(); await settle(); press("t"); await settle();
    console.log(JSON.stringify([at_once, $("state").textContent, asked.length]));"""
    assert run(steps) == [1, "fitting", 1]


def test_what_is_given_up_comes_back_with_undo():
    steps = """
    paint(); const painted = String(labels);
    $("forget").onclick(); await settle(); asked.pop().answer(); await settle(); asked.pop().answer(); await settle();
    const empty = labels.every(id => !id), unsaved = is_unsaved();
    undo(); const back = String(labels) === painted, changed = is_unsaved();
    undo(); console.log(JSON.stringify([empty, unsaved, back, changed, labels.every(id => !id), questions.length]));"""
    assert run(steps) == [True, False, True, True, True, 0]


def test_nothing_is_done_to_a_mask_that_could_not_be_read():
    steps = """
    labels = undefined; press("f"); press("t"); await settle();
    console.log(JSON.stringify([asked.length, is_unsaved()]));"""
    assert run(steps) == [0, False]


def test_zoom_keeps_what_is_in_the_middle():
    steps = """
    const view = $("viewport");
    Object.assign(view, {clientWidth: 100, clientHeight: 50, scrollWidth: 200, scrollHeight: 100});
    Object.assign(view, {scrollLeft: 100, scrollTop: 0});  // three quarters of the width, a quarter of the height
    const resize = zoom => Object.assign(view, {scrollWidth: 100 * zoom, scrollHeight: 50 * zoom});
    $("stage").style.setProperty = (name, zoom) => resize(zoom);
    $("zoom").value = 400; $("zoom").oninput();
    console.log(JSON.stringify([view.scrollLeft, view.scrollTop]));"""
    assert run(steps) == [250, 25]


def test_one_frame_alone_has_no_timeline():
    steps = """console.log(JSON.stringify(document.body.classes));"""
    assert run(steps) == {"single": False}
    assert run("clip_json.frames.splice(1); start(); await settle();" + steps) == {"single": True}


def test_keys_count_with_caps_lock_too():
    steps = """
    press("E"); const erased = erasing; press("B");
    console.log(JSON.stringify([erased, erasing]));"""
    assert run(steps) == [True, False]


def test_the_picture_of_the_frame_before_is_hidden_until_its_own_is_there():
    steps = """
    press("ArrowRight"); await settle(); asked.pop().answer(); await settle();
    const then = $("picture").className;
    $("picture").onload();
    console.log(JSON.stringify([then, $("picture").className]));"""
    assert run(steps) == ["stale", ""]
