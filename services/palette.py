"""How genres and kinds of sound look and are called wherever a person sees them: page, terminal, pictures.

The one place for it. Start at `called` and `colour`.
"""

from __future__ import annotations

GENRES: dict[str, tuple[str, str]] = {
    "blues": ("#2f6fdb", "#5e9bff"),
    "classical": ("#a98300", "#e3bd45"),
    "country": ("#b8652a", "#e08d50"),
    "disco": ("#b93fc0", "#df74e6"),
    "hiphop": ("#7a5ad6", "#a48bff"),
    "jazz": ("#0f8d86", "#35bdb4"),
    "metal": ("#39434e", "#d3dce6"),
    "pop": ("#e04f8f", "#ff80b3"),
    "reggae": ("#379239", "#64c466"),
    "rock": ("#d3382f", "#ff6f66"),
}
"""On a light ground and on a dark one."""
KINDS: dict[str, tuple[str, str]] = {
    "music": ("#0b57b8", "#7db8ff"),
    "speech": ("#7b8fa5", "#8ea3b9"),
    "other": ("#8a7f74", "#8f857b"),
    "silence": ("#c3cad2", "#4a545f"),
}
"""Greys: what is no music stands back behind what is; music itself has a colour where no genre is meant."""
WORDS = {"music": "music", "speech": "talk", "other": "other sound", "silence": "silence"}


def called(kind: str, genre: str | None) -> str:
    """Return what is heard in a word: the genre, with a question mark where the model is unsure, or talk, silence."""
    if genre is None:
        return WORDS.get(kind, "other sound")
    return f"{genre}?" if kind == "unsure" else genre


def colour(kind: str, genre: str | None, dark: bool = False) -> str:
    """Return the colour of what is heard as #rrggbb or hsl(); genres of other models get one of their own."""
    if genre is None:
        return KINDS.get(kind, KINDS["other"])[dark]
    if genre in GENRES:
        return GENRES[genre][dark]
    return f"hsl({sum((i + 1) * ord(c) for i, c in enumerate(genre)) * 47 % 360} 55% 45%)"


def style_sheet() -> str:
    """Return the colours as CSS variables: --genre-<name> and --kind-<name>, which follow the page's theme."""
    light, dark = (
        "".join(
            [f"--genre-{name}:{pair[at]};" for name, pair in GENRES.items()]
            + [f"--kind-{name}:{pair[at]};" for name, pair in KINDS.items()]
        )
        for at in (0, 1)
    )
    return (
        f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        f":root[data-theme=light]{{{light}}}\n:root[data-theme=dark]{{{dark}}}\n"
    )
