"""Every page as people of each role see it, on each size of screen, in both schemes, with and without scripts; and seed D told whole."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from continual_contract.entries import decode_label
from continual_contract.keys import ModelKeys
from continual_contract.routing import is_held_out, separation_unit
from PIL import Image
from playwright.sync_api import Page, expect
from regions import tiles

AsRole = Callable[..., Page]
KEYS = ModelKeys("default", "digits")
TRAINING_MS = 420_000
HOLDOUT_PERCENT = 10
PATHS = ("/", "/models/digits", "/models/digits/try", "/models/digits/samples", "/models/digits/queue")


def test_the_dashboard_of_this_machine_signs_in_and_lists_the_model(owner: Page) -> None:
    """`continual dashboard`'s address works once: name, state, version and age of the model are there."""
    expect(owner.locator("tbody tr th a")).to_have_text(["digits", "regions"])
    expect(owner.locator("tbody .pill")).to_contain_text(["Ready", "Ready"])
    expect(owner.locator("tbody .version").first).to_have_text(re.compile(r"v\d+"))
    expect(owner.locator(".who")).to_contain_text("me")


def test_an_unknown_token_is_told_what_to_do(visitor: Any) -> None:
    """A wrong token leads back to the same page with a sentence, never to a blank error."""
    page = visitor.open("/models/digits")
    expect(page).to_have_url(re.compile("/signin$"))
    page.fill("#token", "not a token")
    page.click("main button")
    expect(page.get_by_role("alert")).to_contain_text("continual dashboard")


def test_the_overview_shows_live_numbers_curves_and_the_ledger(as_role: AsRole, traffic: None) -> None:
    """Labelled traffic appears as accuracy with its interval, as curves on a canvas, as bars and as a confusion matrix."""
    page = as_role("admin")
    page.goto("/models/digits")
    expect(page.locator(".figure", has_text="Live accuracy").locator(".value")).to_have_text(re.compile(r"\d\d"))
    expect(page.locator(".figure", has_text="Live accuracy").locator(".note")).to_contain_text("labels")
    expect(page.locator("[data-chart=accuracy] canvas")).to_be_visible()
    expect(page.locator("[data-chart=training] canvas")).to_be_visible()
    expect(page.locator("#versions tbody tr").last).to_contain_text("Bootstrap")
    expect(page.locator("#versions tbody code").first).to_have_text(re.compile("[0-9a-f]{12}"))
    expect(page.locator(".matrix td.right")).to_have_count(10)
    expect(page.locator(".bars tbody tr")).to_have_count(10)
    expect(page.locator("#ledger .ledger").first).to_contain_text("First version")
    page.locator("#ledger a", has_text="Accept").last.click()
    expect(page.locator("h1")).to_contain_text("Accept v1")
    expect(page.locator("pre.json")).to_contain_text('"parity_max_abs_diff"')


def test_the_overview_changes_without_being_loaded_again(as_role: AsRole, world: Any, traffic: None) -> None:
    """A verb given elsewhere shows on an open page within seconds, and what did not change is not sent."""
    page = as_role("admin")
    page.goto("/models/digits")
    page.evaluate("window.here = true")
    world.verb("suspend", "digits")
    expect(page.locator("#head .notice")).to_contain_text("Suspended")
    world.verb("resume", "digits")
    expect(page.locator("#head .notice")).to_have_count(0)
    assert page.evaluate("window.here") is True


def test_an_open_page_is_told_what_is_new_and_asks_where_it_cannot_be_told(as_role: AsRole, visitor: Any) -> None:
    """While nothing happens an open line of events costs no requests. Mutation check: without the line the page asks every two seconds."""
    page = as_role("viewer")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/live?" in request.url else None)
    page.goto("/models/digits")
    page.wait_for_timeout(2_500)
    for _ in range(8):  # until nothing happens
        asked.clear()
        page.wait_for_timeout(4_500)
        if len(asked) <= 1:
            break
    told = len(asked)
    page.route("**/events", lambda route: route.abort())
    page.reload()
    asked.clear()
    for _ in range(8):
        page.wait_for_timeout(4_500)
        if len(asked) >= 3:
            break
    assert told <= 1
    assert len(asked) >= 3
    visitor.watch.faults.clear()


def test_labels_are_given_by_keyboard(as_role: AsRole, world: Any, asked: list[str]) -> None:
    """Five keys are five labels of source audit in the stream, by the person who pressed them; the sixth key skips."""
    page = as_role("labeler")
    page.goto("/models/digits/queue")
    client = world.redis()
    begin = client.xrevrange(KEYS.labels, count=1)
    last = begin[0][0].decode() if begin else "0-0"
    seen = []
    for key in ("3", "1", "4", "1", "5"):
        item = page.locator("#item").get_attribute("data-item")
        seen.append(item)
        page.keyboard.press(key)
        page.wait_for_function("item => document.getElementById('item')?.dataset.item !== item", arg=item)
    skipped = page.locator("#item").get_attribute("data-item")
    page.keyboard.press("Space")
    page.wait_for_function("item => document.getElementById('item')?.dataset.item !== item", arg=skipped)
    labels = [decode_label(fields) for _, fields in client.xrange(KEYS.labels, f"({last}", "+")]
    mine = [label for label in labels if label.labeler == "labeler-person"]
    assert [(label.reference, label.class_name, label.source) for label in mine] == [
        (item, key, "audit") for item, key in zip(seen, ("3", "1", "4", "1", "5"), strict=True)
    ]
    assert set(seen) <= set(asked)
    assert len({*seen, skipped}) == 6, "nothing is shown twice"


def test_a_viewer_looks_and_asks_but_changes_nothing(as_role: AsRole, visitor: Any, world: Any) -> None:
    """No button of a verb, no upload, no queue; and the addresses behind them refuse, whatever the page shows."""
    page = as_role("viewer")
    page.goto("/models/digits")
    expect(page.locator("form[action*='/verbs/']")).to_have_count(0)
    expect(page.locator(".tabs a", has_text="Label queue")).to_have_count(0)
    page.goto("/models/digits/samples")
    expect(page.locator("#upload")).to_have_count(0)
    visitor.watch.expected.add(403)
    page.goto("/models/digits/queue")
    expect(page.get_by_role("alert")).to_contain_text("labeler")
    answer = page.evaluate(POST, ["/models/digits/verbs/suspend", {}])
    assert answer == 403
    assert not (world.state.read_model("digits")["spec"]).get("suspend")


def test_a_labeler_teaches_but_does_not_steer(as_role: AsRole, visitor: Any, world: Any) -> None:
    """The queue and the upload are there; the verbs are not, and refuse."""
    page = as_role("labeler")
    page.goto("/models/digits/samples")
    expect(page.locator("#upload")).to_be_visible()
    page.goto("/models/digits")
    expect(page.locator("form[action*='/verbs/']")).to_have_count(0)
    visitor.watch.expected.add(403)
    assert page.evaluate(POST, ["/models/digits/verbs/retrain", {}]) == 403
    assert "continual.dev/retrain-requested-at" not in (
        world.state.read_model("digits")["metadata"].get("annotations") or {}
    )


def test_a_form_without_its_sessions_token_is_refused(as_role: AsRole, visitor: Any, world: Any) -> None:
    """Mutation check of the buttons: the same POST by an admin passes with the token and not without."""
    page = as_role("admin")
    visitor.watch.expected.add(403)
    assert page.evaluate(POST, ["/models/digits/verbs/suspend", {"csrf": "forged"}]) == 403
    assert not world.state.read_model("digits")["spec"].get("suspend")
    token = page.locator("meta[name=csrf]").get_attribute("content")
    assert page.evaluate(POST, ["/models/digits/verbs/resume", {"csrf": token}]) == 200


def test_a_verb_that_cuts_asks_first(as_role: AsRole, world: Any) -> None:
    """Cancel leaves everything as it is; Go ahead writes the field; the ledger of changes names who."""
    page = as_role("admin")
    page.goto("/models/digits")
    page.click("#head-suspend")
    page.locator("#confirm button", has_text="Cancel").click()
    assert not world.state.read_model("digits")["spec"].get("suspend")
    page.click("#head-suspend")
    page.locator("#confirm button", has_text="Go ahead").click()
    expect(page.get_by_role("status").first).to_contain_text("Suspended")
    expect(page.locator("#head .notice")).to_contain_text("Suspended")
    expect(page.locator("section", has=page.locator("#audit-title"))).to_contain_text("admin-person suspend")
    page.click("#head-resume")
    expect(page.locator("#head .notice")).to_have_count(0)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_fits_a_phone(as_role: AsRole, asked: list[str], dark: bool) -> None:
    """At 390 px nothing scrolls sideways but tables within their own frame, and text keeps its size."""
    page = as_role("admin", width=390, dark=dark)
    for path in PATHS:
        page.goto(path)
        page.wait_for_load_state("networkidle" if path != "/models/digits" else "load")
        assert page.evaluate("document.documentElement.scrollWidth") == 390, path
        assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 15
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(int(part) for part in re.findall(r"\d+", background)[:3]) < 200) is dark


def test_the_pages_work_without_scripts(as_role: AsRole, digits: Any, world: Any) -> None:
    """Sign in, read the overview, ask about an image, correct nothing, label one request, suspend and resume: forms and links alone."""
    page = as_role("admin", script=False)
    page.click("tbody a >> text=digits")
    expect(page.locator("h1")).to_have_text("digits")
    expect(page.locator("#rollout .verdict")).to_be_visible()
    page.locator(".tabs a", has_text="Try it").click()
    page.set_input_files("#image", digits(3).upload)
    page.click("#ask button")
    expect(page.locator("#said")).to_have_text(digits(3).label)
    page.locator(".tabs a", has_text="Label queue").click()
    page.locator("button[name=label]", has_text=digits(3).label).first.click()
    expect(page.locator("#queue-title")).to_be_visible()
    page.goto("/models/digits")
    page.click("#head-suspend")
    expect(page.locator("#head .notice")).to_contain_text("Suspended")
    page.click("#head-resume")
    expect(page.locator("#head .notice")).to_have_count(0)


def test_what_went_wrong_is_a_page_that_names_the_remedy(as_role: AsRole, visitor: Any) -> None:
    """A file that is no image, a model that is not there: a sentence with field, value and what helps, in the frame of the site."""
    visitor.watch.expected.update({400, 404})
    page = as_role("labeler")
    page.goto("/models/digits/try")
    page.set_input_files("#image", {"name": "a.png", "mimeType": "image/png", "buffer": b"not an image"})
    expect(page.get_by_role("alert")).to_contain_text("What helps")
    page.goto("/models/nobody")
    expect(page.get_by_role("alert")).to_contain_text("default.digits")


def test_a_drawing_is_asked_like_a_file(as_role: AsRole) -> None:
    """Strokes on the canvas become a request of their own and come back as the model saw them."""
    page = as_role("viewer")
    page.goto("/models/digits/try")
    box = page.locator("canvas.sketch").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 140, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 240, steps=8)
    page.mouse.up()
    page.click("#sketch-send")
    expect(page.locator("#said")).to_have_text(re.compile(r"^\d$"))
    expect(page.locator(".chances tr")).to_have_count(6)
    ink = page.evaluate(INK)
    assert ink > 50_00, "the stroke is in the picture"


def test_an_image_of_another_size_is_refused_where_the_model_says_so(as_role: AsRole, visitor: Any) -> None:
    """`fit: Refuse`: the page says so beforehand, and what is sent all the same is answered with both sizes."""
    visitor.watch.expected.add(400)
    page = as_role("viewer")
    page.goto("/models/digits/try")
    expect(page.locator(".drop")).to_contain_text("Exactly 28 × 28 pixels")
    page.set_input_files("#image", next(tiles("noon", 3)).upload("photo.png"))
    expect(page.get_by_role("alert")).to_contain_text("28")
    expect(page.get_by_role("alert")).to_contain_text("What helps")


def test_a_photo_of_another_size_is_letterboxed_where_the_model_says_so(as_role: AsRole) -> None:
    """A picture of 48 by 40 pixels in one of 32 by 32: whole, with bars above and below, and shown as the model sees it."""
    page = as_role("viewer")
    page.goto("/models/regions/try")
    expect(page.locator("canvas.sketch")).to_have_count(0)
    page.set_input_files("#image", next(tiles("noon", 3)).upload("photo.png"))
    expect(page.locator(".fitted")).to_contain_text("32 × 32 pixels")
    page.locator("img.picture").evaluate("image => image.decode()")
    rows = page.evaluate(ROWS)
    assert (max(rows[:2]), max(rows[-2:])) == (0, 0), "bars"
    assert min(rows[4:-4]) > 0, "no bar inside"


def test_a_pasted_image_is_asked_like_a_file(as_role: AsRole) -> None:
    """An image on the clipboard lands in the form and is sent; pasted text does nothing."""
    page = as_role("viewer")
    page.goto("/models/digits/try")
    page.evaluate(PASTE, "text/plain")
    expect(page.locator("#said")).to_have_count(0)
    page.evaluate(PASTE, "image/png")
    expect(page.locator("#said")).to_have_text(re.compile(r"^\d$"))


def test_a_page_whose_gateway_is_away_says_that_it_is_old(as_role: AsRole, visitor: Any) -> None:
    """No answer: a banner over numbers that stand still; the next answer takes it away."""
    page = as_role("viewer")
    page.route("**/events", lambda route: route.abort())
    page.goto("/models/digits")
    expect(page.locator("#away")).to_be_hidden()
    page.route("**/live**", lambda route: route.abort())
    expect(page.locator("#away")).to_be_visible()
    page.unroute("**/live**")
    expect(page.locator("#away")).to_be_hidden()
    assert visitor.watch.faults, "a lost request is told on the console"
    visitor.watch.faults.clear()


def test_keys_alone_reach_everything(as_role: AsRole) -> None:
    """Tab begins with the skip link, every stop shows a focus ring, Enter follows it."""
    page = as_role("admin")
    page.goto("/models/digits")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    rings = []
    for _ in range(6):
        page.keyboard.press("Tab")
        rings.append(page.evaluate("getComputedStyle(document.activeElement).outlineStyle"))
    assert rings == ["solid"] * 6


def test_the_rules_of_content_hold_in_the_browser(as_role: AsRole, visitor: Any) -> None:
    """Mutation check of the clean consoles: an inline script and a foreign image are both stopped, and both are noticed."""
    page = as_role("viewer")
    page.evaluate(INJECT)
    told: list[str] = []
    for _ in range(30):
        page.wait_for_timeout(300)
        told = [fault for fault in visitor.watch.faults if "Content Security Policy" in fault]
        if len(told) >= 2:
            break
    assert page.evaluate("window.injected") is None
    assert len(told) >= 2
    visitor.watch.faults.clear()


def mistaken(page: Page, digits: Callable[..., Any], start: int) -> Iterator[tuple[Any, str]]:
    """Tilted digits that the model gets wrong, with its answer; none of the holdout, which never trains. The page shows the answer."""
    for index in range(start, start + 200):
        one = digits(index, 32.0)
        if is_held_out(separation_unit(b"", Image.open(io.BytesIO(one.png)).tobytes()), HOLDOUT_PERCENT):
            continue
        page.goto("/models/digits/try")
        page.set_input_files("#image", one.upload)
        said = page.locator("#said").inner_text()
        if said != one.label:
            yield one, said
    raise AssertionError("two hundred tilted digits were all answered rightly")


@pytest.mark.timeout(900)
def test_seed_d_a_wrong_answer_is_corrected_learned_and_right(as_role: AsRole, digits: Any, world: Any) -> None:
    """Upload → wrong → say what it is → Use for retraining → live progress → the same image is asked again and is right."""
    before = world.stable()
    page = as_role("labeler")
    one, said = next(mistaken(page, digits, 100))
    page.locator(f".choices input[value='{one.label}']").check(force=True)
    page.click("text=Use for retraining")
    expect(page.locator("#correction-title")).to_have_text(f"{said} → {one.label}")
    expect(page.locator(".steps li").nth(1)).to_contain_text("Job", timeout=TRAINING_MS)
    expect(page.locator("#fixed")).to_contain_text("Fixed", timeout=TRAINING_MS)
    expect(page.locator(".steps li").nth(2)).to_contain_text(f"the new checkpoint says {one.label}")
    world.wait("the promotion", lambda: world.stable() != before)
    after = world.stable()
    expect(page.locator(".steps li").nth(4)).to_contain_text(f"by {after}")
    page.goto("/models/digits/try")
    expect(page.locator("section", has=page.locator("#mine-title")).locator("li").first).to_contain_text(
        f"{said} → {one.label}"
    )
    page.set_input_files("#image", one.upload)
    expect(page.locator("#said")).to_have_text(one.label)
    by_hand(as_role("admin"), world, before, after)


def by_hand(page: Page, world: Any, before: str, after: str) -> None:
    """An admin takes the promotion back, pins, readmits, promotes, takes back again and rejects: by buttons alone."""
    row = page.locator("#versions tbody tr", has=page.locator("th", has_text=after))
    stable = page.locator(".figure", has_text="Stable version").locator(".value")
    page.goto("/models/digits")
    press(page, "#head-rollback")
    expect(row.locator(".pill")).to_contain_text("Rolled back")
    expect(stable).to_have_text(before)
    press(page, f"#versions-pin-{before}")
    expect(page.locator("#head .notice", has_text="Pinned")).to_be_visible()
    press(page, "#versions-unpin")
    expect(page.locator("#head .notice", has_text="Pinned")).to_have_count(0)
    row.get_by_role("button", name="Readmit").click()
    agree(page)
    press(page, f"#rollout-promote-{after}")
    expect(stable).to_have_text(after)
    expect(page.locator("#ledger .ledger").first.locator("li", has_text="Forced").first).to_contain_text("by hand")
    press(page, "#head-rollback")
    expect(stable).to_have_text(before)
    row.get_by_role("button", name="Readmit").click()
    agree(page)
    press(page, f"#rollout-reject-{after}")
    expect(row.locator(".pill")).to_contain_text("Rejected")
    world.wait("rest", lambda: world.stable() == before and world.settled())


def press(page: Page, button: str) -> None:
    """Press, and say yes where the page asks first."""
    page.click(button)
    if page.locator("#confirm").is_visible():
        agree(page)
    expect(page.locator(".told")).to_be_visible()


def agree(page: Page) -> None:
    page.locator("#confirm button", has_text="Go ahead").click()
    expect(page.locator(".told")).to_be_visible()


ROWS = """() => {
  const image = document.querySelector("img.picture");
  const canvas = Object.assign(document.createElement("canvas"), {width: 32, height: 32});
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const {data} = pen.getImageData(0, 0, 32, 32);
  return Array.from({length: 32}, (_, y) => data.slice(y * 128, y * 128 + 128).reduce(
    (most, value, index) => index % 4 === 3 ? most : Math.max(most, value), 0));
}"""
POST = """async ([path, fields]) => (await fetch(path, {method: "POST", headers: {accept: "text/html"},
  body: new URLSearchParams(fields)})).status"""
INK = """() => {
  const image = document.querySelector("img.picture");
  const canvas = Object.assign(document.createElement("canvas"), {width: 28, height: 28});
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, 28, 28);
  return pen.getImageData(0, 0, 28, 28).data.reduce((sum, value, index) => sum + (index % 4 === 0 ? value : 0), 0);
}"""
PASTE = """async (type) => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 28, height: 28});
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([blob], "pasted", {type}));
  document.dispatchEvent(new ClipboardEvent("paste", {clipboardData}));
}"""
INJECT = """() => {
  const script = document.createElement("script");
  script.textContent = "window.injected = true";
  document.body.append(script);
  const image = new Image();
  image.src = "http://192.0.2.1/pixel.png";
  document.body.append(image);
}"""
