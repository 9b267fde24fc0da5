"""What :mod:`gpu` found, judged against the targets, as tables and as a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Found = Mapping[str, Any]

EAGER = "eager fp32"
TARGETS = {"eager": 6.0, "compile": 1.3, "matrix": 0.35, "volume_ms": 60.0}


def verdicts(parts: Found, gflop: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each target: reached, or how far; ``reached`` is None where it was not measured."""
    batches = contests(parts)
    best = max(
        (
            (1e3 * batch / entry["ms"], batch, name)
            for batch, contest in batches.items()
            for name, entry in _timed(contest)
            if entry["family"] == "ours"
        ),
        default=None,
    )
    lines = [_runs(parts, target) for target in ("default", "sm80")]
    lines += _speed(batches, best, gflop)
    lines += [_volume(parts), _copies(parts)]
    if any(part.get("device") == "cpu" for part in parts.values()):
        # The targets are a GPU's.
        lines = [one | {"reached": None, "said": f"on a CPU: {one['said']}"} for one in lines]
    return [*lines, _parity(parts)]


def contests(parts: Found) -> dict[int, Found]:
    """What is known of the peers, by batch."""
    known = {
        int(name.removeprefix("peers/")): part["result"]
        for name, part in parts.items()
        if name.startswith("peers/") and part.get("result")
    }
    return dict(sorted(known.items()))


def tables(parts: Found, gflop: Mapping[str, float], judged: Sequence[Found]) -> str:
    """Markdown: what was run, the peers batch by batch, parity, the volume, the verdicts."""
    text = [
        _table(
            ["part", "status", "s", "message"],
            [
                [name, part["status"], f"{part.get('seconds', 0):.0f}", part.get("message", "")]
                for name, part in parts.items()
            ],
        )
    ]
    for batch, contest in contests(parts).items():
        text.append(f"### Batch {batch}\n\n{_matrix(contest)}\n\n{_peers(contest, batch, gflop)}")
    if parts.get("parity", {}).get("result"):
        text.append(f"### Parity\n\n{_parity_table(parts['parity']['result'])}")
    text.append(
        _table(
            ["target", "reached", "what was found"],
            [[one["target"], _word(one["reached"]), one["said"]] for one in judged],
        )
    )
    return "\n\n".join(text)


def draw(parts: Found, path: Path, caption: str) -> None:
    """Slices a second over the batch, a line a contender."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    lines: dict[str, list[tuple[int, float]]] = {}
    families: dict[str, str] = {}
    for batch, contest in contests(parts).items():
        for name, entry in _timed(contest):
            lines.setdefault(name, []).append((batch, 1e3 * batch / entry["ms"]))
            families[name] = entry["family"]
    styles = {"ours": "-", "plain": "--", "compile": ":", "compile ours": ":", "eager": "-."}
    figure, axes = pyplot.subplots(figsize=(9, 5.5))
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), styles[families[name]], marker="o", label=name)
    axes.set_xlabel(f"batch ({caption})")
    axes.set_ylabel("slices a second, median")
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.set_xscale("log", base=2)
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _runs(parts: Found, target: str) -> dict[str, Any]:
    part = parts.get(f"rtx/{target}", {})
    steps = part.get("result") or {}
    said = ", ".join(
        f"{step}: {steps[step]['status']}"
        + (f" ({steps[step]['message']})" if "message" in steps[step] else "")
        for step in ("opens", "runs", "opens without asking its header")
        if step in steps
    )
    runs = steps.get("runs", {}).get("status") == "done" if steps else None
    if steps.get("runs", {}).get("message", "").startswith("DeviceUnavailable"):
        runs = None  # no GPU at all
    said = "; ".join(text for text in (said, part.get("message")) if text)
    return _line(f"TensorRT-RTX engine ({target}) loads and runs", runs, said or _why(part))


def _speed(
    batches: Mapping[int, Found], best: tuple[float, int, str] | None, gflop: Mapping[str, float]
) -> list[dict[str, Any]]:
    wanted = (
        f"ours at its best batch at least {TARGETS['eager']:g} x eager fp32",
        f"at least {TARGETS['compile']:g} x torch.compile in the same precision",
        f"at least {TARGETS['matrix']:.0%} of the measured bf16 matrix rate, folded GFLOP",
    )
    if best is None:
        return [_line(target, None, "peers gave nothing of ours") for target in wanted]
    rate, batch, name = best
    contenders = batches[batch]["contenders"]
    entry, ratios = contenders[name], contenders[name].get("faster_than", {})
    what = f"{name}, batch {batch}, {rate:.0f} slices/s"
    # The faster of the two layouts is the one to beat.
    eager = min(
        (ratios[k] for k in (EAGER, f"{EAGER}, channels-last") if k in ratios), default=None
    )
    lines = [_ratio(wanted[0], eager, TARGETS["eager"], what)]
    for precision in ("fp32", "fp16", "bf16"):
        own = max(
            (
                (1e3 * size / found["ms"], size, label, found["faster_than"][key])
                for key in [f"torch.compile {precision}"]
                for size, contest in batches.items()
                for label, found in _timed(contest)
                if found["family"] == "ours"
                and found["precision"] == precision
                and key in found.get("faster_than", {})
            ),
            default=None,
        )
        at = "torch.compile was not measured" if own is None else f"{own[2]}, batch {own[1]}"
        ratio = None if own is None else own[3]
        lines.append(_ratio(f"{wanted[1]} ({precision})", ratio, TARGETS["compile"], at))
    product = batches[batch]["matrix_tflops"].get("bf16")
    share = None if product is None else rate * gflop["folded"] / 1e3 / product
    said = f"{what}: {rate * gflop['folded'] / 1e3:.1f} TFLOP/s"
    if share is not None:
        clocks = f"device {entry['ms']:.2f} ms, host {entry['host_ms']:.2f} ms a batch"
        said += f" of {product:.0f} ({share:.1%}), {clocks}; see part profile for where it goes"
        said += "" if share >= TARGETS["matrix"] else f"; {TARGETS['matrix'] / share:.2f} x short"
    reached = None if share is None else share >= TARGETS["matrix"]
    return [*lines, _line(wanted[2], reached, said)]


def _volume(parts: Found) -> dict[str, Any]:
    part = parts.get("volume", {})
    result = part.get("result") or {}
    target = (
        f"{result.get('slices', 100)} slices on the device in under {TARGETS['volume_ms']:g} ms"
    )
    found = [
        (entry["compute_ms"], entry["total_ms"], name, batch)
        for name, engine in result.get("engines", {}).items()
        for batch, entry in engine["batches"].items()
        if entry["status"] == "done" and entry["compute_ms"] is not None
    ]
    if not found:
        return _line(target, None, _why(part, "no device time"))
    compute, total, name, batch = min(found)
    said = f"{name}, batch {batch}: compute {compute:.1f} ms, host to host {total:.1f} ms"
    return _line(target, compute < TARGETS["volume_ms"], said)


def _copies(parts: Found) -> dict[str, Any]:
    part = parts.get("copies", {})
    done = {
        name: entry
        for name, entry in ((part.get("result") or {}).get("engines") or {}).items()
        if entry["status"] == "done"
    }
    said = "; ".join(
        f"{name}: {entry['together_ms']:.1f} ms together, {entry['one_by_one_ms']:.1f} one by one, "
        f"{entry['share_of_copies_hidden']:.0%} of the copies hidden"
        for name, entry in done.items()
    )
    hidden = all(e["share_of_copies_hidden"] > 0.5 for e in done.values()) if done else None
    return _line("copies run beside compute (more than half hidden)", hidden, said or _why(part))


def _parity(parts: Found) -> dict[str, Any]:
    part = parts.get("parity", {})
    within = [
        (name, label, entry)
        for name, sets in (part.get("result") or {}).items()
        for label, entry in sets.items()
        if "within" in entry
    ]
    outside = [f"{name} on {label}" for name, label, entry in within if not entry["within"]]
    said = f"{len(within)} sets" + (f"; outside: {', '.join(outside)}" if outside else "")
    reached = not outside if within else None
    return _line("parity within each precision's bounds", reached, said if within else _why(part))


def _peers(contest: Found, batch: int, gflop: Mapping[str, float]) -> str:
    rows = []
    product = contest["matrix_tflops"].get("bf16")
    for name, entry in contest["contenders"].items():
        if "ms" not in entry:
            why = entry.get("message", "no round was finished")[:120]
            rows.append([f"{name}: {entry['status']}, {why}", *[""] * 8])
            continue
        tflops = gflop[entry["gflop"]] * batch / entry["ms"]
        ratios = entry.get("faster_than", {})
        compiled = ratios.get(f"torch.compile {entry['precision']}")
        rows.append(
            [
                name,
                f"{entry['ms']:.2f}",
                f"{entry['host_ms']:.2f}",
                f"{1e3 * batch / entry['ms']:.1f}",
                f"{tflops:.2f}",
                f"{tflops / product:.1%}" if product else "",
                f"{ratios[EAGER]:.2f}" if EAGER in ratios else "",
                f"{compiled:.2f}" if compiled else "",
                _decibels(entry),
            ]
        )
    head = ["", "ms", "host ms", "slices/s", "TFLOP/s", "of bf16 product", "x eager fp32"]
    return _table([*head, "x torch.compile", "PSNR, dB"], rows)


def _matrix(contest: Found) -> str:
    rates = contest["matrix_tflops"]
    if rates["status"] != "done":
        return f"Matrix products: {rates['message']}"
    kinds = ", ".join(f"{kind} {rates[kind]:.1f}" for kind in ("tf32", "fp16", "bf16"))
    return f"Products of {rates['side']} x {rates['side']} matrices, TFLOP/s: {kinds}."


def _parity_table(result: Found) -> str:
    rows = []
    for name, sets in result.items():
        for label, entry in sets.items():
            if "within" not in entry:
                continue
            found, host = entry["against float64"], entry.get("against ort-cpu", {})
            rows.append(
                [
                    f"{name}, {label}",
                    _scientific(found["max_abs"]),
                    _scientific(found["rms"]),
                    _decibels(found),
                    _scientific(host.get("max_abs")),
                    "yes" if entry["within"] else "no",
                ]
            )
    head = ["", "max", "RMS", "PSNR, dB", "max from ort-cpu", "within bounds"]
    return _table(head, rows)


def _timed(contest: Found) -> Iterable[tuple[str, Found]]:
    return ((n, e) for n, e in contest["contenders"].items() if "ms" in e)


def _ratio(target: str, ratio: float | None, wanted: float, what: str) -> dict[str, Any]:
    if ratio is None:
        return _line(target, None, what)
    short = "" if ratio >= wanted else f"; {wanted / ratio:.2f} x short"
    return _line(target, ratio >= wanted, f"{ratio:.2f} x, {what}{short}")


def _line(target: str, reached: bool | None, said: str) -> dict[str, Any]:
    return {"target": target, "reached": reached, "said": said}


def _why(part: Found, otherwise: str = "nothing was found") -> str:
    return str(part.get("message") or (otherwise if part else "not asked for"))


def _word(reached: bool | None) -> str:
    return "not measured" if reached is None else "yes" if reached else "no"


def _decibels(found: Found) -> str:
    if not found["finite"]:
        return "NaN or infinite"
    return "equal" if found["psnr_db"] is None else f"{found['psnr_db']:.1f}"


def _scientific(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As ``tlp_train.tables.markdown_table``, whose module needs nibabel."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(" ".join(c.split()) for c in row) + " |" for row in lines)
