"""Says a report of `genre train evaluate` to a person. Text only: nothing is measured here. Start at `table`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]


def table(report: Report) -> str:
    """Return one model's report."""
    lines = [f"{report['model']} {report['model_version']} from {report['source']}, {report['deployed_form']}:"]
    shown = [("deployed", report)] + ([("fp32", report["fp32"])] if report["fp32"] else [])
    for form, part in shown:
        if "clip_accuracy" in part:
            lines.append(
                f"  {form:<9} clips {_share(part['clip_accuracy'], part['clip_interval'])} of {part['n_clips']}, "
                f"windows {_share(part['window_accuracy'], part['window_interval'])} of {part['n_windows']}, "
                f"ECE {part['ece']:.3f} (clips {part['clip_ece']:.3f})"
            )
    if "clip_ece_if_calibrated" in report:
        chance = report["clip_ece_if_calibrated"]
        lines.append(f"  so few clips would show an ECE of {chance:.3f} if each confidence were true")
    if "agreement_with_fp32" in report:
        lines.append(f"  the same genre as fp32 in {report['agreement_with_fp32']:.2%} of windows")
    if "confusion" in report:
        lines += ["", *_confusion(report["labels"], report)]
    if report.get("kinds"):
        lines += ["", *_kinds(report["kinds"])]
    if report.get("robustness"):
        lines += ["", *_robustness(report["robustness"])]
    return "\n".join(lines)


def of_models(reports: Sequence[Report]) -> str:
    """Return several models' reports, one line each."""
    kinds = ("music", "speech", "other")
    lines = [f"{'model':<22}{'clips':>8}{'windows':>9}{'ECE':>7}" + "".join(f"{kind:>9}" for kind in kinds)]
    for report in reports:
        name = f"{report['model']} {report['model_version']}"
        row = f"{name:<22}"
        if "clip_accuracy" in report:
            row += f"{report['clip_accuracy']:>8.1%}{report['window_accuracy']:>9.1%}{report['ece']:>7.3f}"
        else:
            row += f"{'-':>8}{'-':>9}{'-':>7}"
        told = (report["kinds"] or {}).get("told", {})
        for kind in kinds:
            row += f"{_right(kind, told[kind]):>9.1%}" if kind in told else f"{'-':>9}"
        lines.append(row)
    return "\n".join(lines)


def _right(kind: str, row: Mapping[str, int]) -> float:
    """Return the share of a kind's windows that are told as it; other sounds may be silence."""
    count = row[kind] + (row["silence"] if kind == "other" else 0)
    return count / max(1, sum(row.values()))


def _kinds(kinds: Report) -> list[str]:
    """Return how many windows of each kind are told as what."""
    columns = ("music", "speech", "other", "silence")
    lines = [f"{'windows':<10}" + "".join(f"{column:>9}" for column in columns) + f"    ECE {kinds['ece']:.3f}"]
    for kind, row in kinds["told"].items():
        lines.append(f"{kind:<10}" + "".join(f"{row[column] or '.':>9}" for column in columns))
    wrong = {genre: share for genre, share in kinds["music_called_speech_or_other"].items() if share}
    if wrong:
        told = ", ".join(f"{genre} {share:.1%}" for genre, share in wrong.items())
        lines.append(f"music called speech or other: {told}")
    return lines


def _robustness(rows: Mapping[str, Report]) -> list[str]:
    """Return the table of what was done to the sound."""
    kinds = [kind for kind in ("music", "speech", "other") if kind in (rows["as it is"]["kinds"] or {})]
    lines = [f"{'':<18}{'clips':>8}{'windows':>9}" + "".join(f"{kind:>9}" for kind in kinds)]
    for name, row in rows.items():
        numbers = (row["clip_accuracy"], row["window_accuracy"], *((row["kinds"] or {}).get(kind) for kind in kinds))
        widths = (8, *[9] * (len(numbers) - 1))
        cells = (
            f"{'-' if number is None else f'{number:.1%}':>{width}}"
            for number, width in zip(numbers, widths, strict=True)
        )
        lines.append(f"{name:<18}" + "".join(cells))
    return lines


def _confusion(labels: Sequence[str], report: Report) -> list[str]:
    """Return the confusion matrix of clips as lines: rows are true genres, columns the model's."""
    lines = [" " * 10 + "".join(f"{label[:5]:>6}" for label in labels) + "  accuracy"]
    for label, row in zip(labels, report["confusion"], strict=True):
        if sum(row):
            share = f"{report['per_genre'][label]:>9.1%}"
            lines.append(f"{label:<10}" + "".join(f"{count or '.':>6}" for count in row) + share)
    return lines


def _share(value: float, interval: Sequence[float]) -> str:
    """Return a share with its 95 % interval."""
    return f"{value:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"
