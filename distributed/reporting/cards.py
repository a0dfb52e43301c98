"""The contact sheet: pictures with what they show and what the model says, as HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from distributed.reporting.facts import Card, Facts, Guess

LEGEND = (
    '<ul class="legend">'
    '<li><span class="right"><span class="mark">✓</span></span> said, and true (bold, full bar)</li>'
    '<li><span class="wrong"><span class="mark">✗</span></span> said, but not among the picture’s tags '
    "(hatched bar)</li>"
    '<li><span class="mark">○</span> true, but not said</li></ul>'
)


BY_NAME = "no training image has this tag: its score comes from what its name means"


def sheet(cards: Sequence[Card], says: Callable[[Guess], str] | None = None) -> str:
    """
    Args:
        says: the sentence about the tag in which model and store disagree.
    """
    has_pictures = any(card.picture for card in cards)
    return f'<ol class="sheet">{"".join(_card(card, has_pictures, says) for card in cards)}</ol>'


def _card(card: Card, has_pictures: bool, says: Callable[[Guess], str] | None) -> str:
    frame = ""
    name = escape(card.image_id)
    if has_pictures:
        inside = '<span class="none" style="color:#59636e">no picture</span>'
        if card.picture:
            inside = f'<img src="{escape(card.picture)}" alt="{name}">'
        frame = f'<div class="frame">{inside}</div>'
    doubt = ""
    if card.doubt is not None and says is not None:
        doubt = f'<p class="doubt">{says(card.doubt)}</p>'
    said = "".join(_guess(guess, "right" if guess.right else "wrong") for guess in card.said)
    said = said or '<li><span></span><span class="none">no tag said</span></li>'
    missed = "".join(_guess(guess, "miss") for guess in card.missed)
    missed += "".join(_guess(Guess(name, "not known"), "miss") for name in card.unknown)
    if missed:
        missed = f'<p class="sub">true, but not said</p><ol>{missed}</ol>'
    return (
        f'<li class="card">{frame}<div class="rest"><p class="id" title="{name}">{name}</p>{doubt}'
        f"<ol>{said}</ol>{missed}</div></li>"
    )


def breakable(name: str) -> str:
    """A name, escaped, that may go on in the next line after ``_``."""
    return escape(name).replace("_", "_<wbr>")


_MARKS = {"right": ("✓", "right"), "wrong": ("✗", "wrong"), "miss": ("○", "missed")}


def _guess(guess: Guess, kind: str) -> str:
    mark, spoken = _MARKS[kind]
    bar = ""
    if guess.share is not None and kind != "miss":
        bar = f'<span class="bar"><i style="width:{guess.share:.1%}"></i></span>'
    name = breakable(guess.name)
    if guess.unseen:
        name += f' <small title="{BY_NAME}">by its name alone</small>'
    return (
        f'<li class="{kind}"><span class="mark" role="img" aria-label="{spoken}">{mark}</span>'
        f'<span>{name}</span><span class="score">{escape(guess.score)}</span>{bar}</li>'
    )


def sample_sheet(facts: Facts) -> str:
    """Images that nobody picked."""
    unit = "probability" if facts.has_probabilities else "score"
    return (
        '<section class="panel" id="pictures"><h2>Pictures</h2>'
        f"<p>{len(facts.sample)} of {facts.metrics['images']:,} images, evenly spread over the store: none "
        f"was picked. Each shows what the model says, with its {unit}, and below it the true tags that it "
        f"does not say.</p>{LEGEND}{sheet(facts.sample)}</section>"
    )


def doubt_sheets(facts: Facts) -> str:
    """The images in which model and store disagree most."""
    out = []
    if facts.wrong:
        out.append(
            '<section class="panel" id="wrong"><h2>Most confident wrong tags</h2>'
            "<p>The store does not list these tags, and the model is surest of them. "
            "Where the picture does show it, the label is missing.</p>"
            f"{sheet(facts.wrong, _says_wrong)}</section>"
        )
    if facts.missed:
        why = (
            "and the model finds them much less likely than on any picture. "
            if facts.has_probabilities
            else "and the model gives them the lowest scores. "
        )
        out.append(
            '<section class="panel" id="missed"><h2>Most confidently missed tags</h2>'
            f"<p>The store lists these tags, {why}"
            "Some are wrong labels; others show what the model has not learned.</p>"
            f"{sheet(facts.missed, _says_missed)}</section>"
        )
    return "".join(out)


def _says_wrong(doubt: Guess) -> str:
    return f"<b>{breakable(doubt.name)}</b> {escape(doubt.score)}, not among its tags"


def _says_missed(doubt: Guess) -> str:
    return f"<b>{breakable(doubt.name)}</b> is listed; the model gives it {escape(doubt.score)}"
