"""`http`: one persistent connection against a connection a request, plain and TLS, at 0 and 50 ms; cheapest rendition
against the first. The paper's claim that persistent sessions pay, measured.

The client is a process of its own (`http_client.py`); delay and TLS are proxies of their own. Start at `run`.
"""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.accounting import figure, spread
from benchmarks.http_client import WAYS
from benchmarks.material import BITRATES_K, Material
from benchmarks.report import Report, bars
from benchmarks.rigs import proxy
from benchmarks.run_process import run as run_single
from services.origin.server import Origin

DELAYS_MS = (0.0, 50.0)
NAMES = {"single": "a connection a request", "session": "one connection", "fetcher": "genre fetcher"}
Key = tuple[str, float, str, str]


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a key and a certificate for 127.0.0.1 that signs itself; return (certificate, key)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark origin")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    crt, pem = folder / "origin.crt", folder / "origin.key"
    crt.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem.touch(mode=0o600)
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return crt, pem


def run(out: Path, music: Path | None, repeats: int, seconds: float, say: Callable[[str], None]) -> Path:
    """Measure every combination, interleaved, and write the report; return its folder."""
    material = Material.made(out / "material", music)
    excerpt = material.excerpt(seconds, BITRATES_K)
    report = Report("http", out, {"repeats": repeats, "seconds": seconds, "bitrates_k": list(BITRATES_K)})
    found: dict[Key, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        origin = stack.enter_context(Origin(material.hls))
        crt, key = certificate(out / "material")
        plain = origin.url.removeprefix("http://")
        tls = stack.enter_context(proxy.Running(plain, certificate=crt, key=key))
        ends: dict[tuple[str, float], proxy.Running] = {}
        for delay_ms in DELAYS_MS:
            ends["http", delay_ms] = stack.enter_context(proxy.Running(plain, delay_ms))
            ends["https", delay_ms] = stack.enter_context(proxy.Running(f"127.0.0.1:{tls.port}", delay_ms))
        for repeat in range(repeats):
            for (scheme, delay_ms), rendition, way in itertools.product(ends, ("first", "cheapest"), WAYS):
                end = ends[scheme, delay_ms]
                end.counts()
                url = f"{scheme}://127.0.0.1:{end.port}/{excerpt.path}"
                argv = [sys.executable, "-m", "benchmarks.http_client", way, rendition, url]
                ran = run_single([*argv, str(crt)] if scheme == "https" else argv, _without_ca_override())
                counts = end.counts()
                one = {**ran.results[0], "connections": counts.connections, "wire_bytes": counts.sent + counts.received}
                one["segment_ms"] = 1000 * one["segment_s"][len(one.pop("segment_s")) // 2]
                found.setdefault((scheme, delay_ms, rendition, way), []).append(one)
            say(f"{repeat + 1}/{repeats} http")
    _write(report, found, excerpt.segments, say)
    return report.save()


def _without_ca_override() -> dict[str, str]:
    """REQUESTS_CA_BUNDLE would override `verify` of a session."""
    return {name: "" for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if name in os.environ}


def _write(report: Report, found: dict[Key, list[dict[str, Any]]], segments: int, say: Callable[[str], None]) -> None:
    rows, values = [], {}
    for key, repeats in found.items():
        scheme, delay_ms, rendition, way = key
        cpu = spread(1000 * repeat["cpu_s"] / repeat["requests"] for repeat in repeats)
        wall = spread(repeat["wall_s"] for repeat in repeats)
        segment = spread(repeat["segment_ms"] for repeat in repeats)
        one = repeats[-1]
        trips: float | str = "-"
        if delay_ms:
            # Measured, not counted: how many delays long the run got, against the same run without delay.
            calm = spread(repeat["wall_s"] for repeat in found[scheme, 0.0, rendition, way]).median
            trips = round((wall.median - calm) * 1000 / delay_ms, 1)
        label = f"{scheme}, {delay_ms:g} ms, {rendition}, {way}"
        values[label] = {
            "requests": one["requests"],
            "connections": one["connections"],
            "wire_bytes": one["wire_bytes"],
            "body_bytes": one["body_bytes"],
            "cpu_ms_per_request": cpu.to_json(),
            "wall_s": wall.to_json(),
            "segment_ms": segment.to_json(),
            "round_trips": trips,
        }
        if rendition == "cheapest" or way == "session":
            rows.append(
                [
                    scheme, f"{delay_ms:g} ms", rendition, NAMES[way], one["requests"], one["connections"],
                    trips, f"{one['wire_bytes'] / 1000:,.0f}", cpu, segment,
                ]
            )  # fmt: skip
    report.values["runs"], report.values["segments"] = values, segments
    heads = [
        "",
        "delay",
        "rendition",
        "client",
        "requests",
        "conn.",
        "round trips",
        "kB",
        "CPU-ms/request",
        "ms/segment",
    ]
    say(report.table(f"{segments} segments of 6 s: median (range)", heads, rows))

    def median(scheme: str, delay_ms: float, way: str, key: str) -> float:
        return spread(repeat[key] for repeat in found[scheme, delay_ms, "cheapest", way]).median

    claims = []
    for scheme, delay_ms in itertools.product(("http", "https"), DELAYS_MS):
        cpu_ratio = median(scheme, delay_ms, "single", "cpu_s") / median(scheme, delay_ms, "session", "cpu_s")
        time_ratio = median(scheme, delay_ms, "single", "segment_ms") / median(
            scheme, delay_ms, "session", "segment_ms"
        )
        claims.append([f"{scheme}, {delay_ms:g} ms", f"{cpu_ratio:.1f}", f"{time_ratio:.1f}"])
    report.values["persistent_is_better_by"] = claims
    say(
        report.table("One connection instead of one a request saves a factor of", ["", "CPU", "time a segment"], claims)
    )
    first = found["http", 0.0, "first", "session"][-1]["wire_bytes"]
    cheapest = found["http", 0.0, "cheapest", "session"][-1]["wire_bytes"]
    report.values["cheapest_saves_bytes"] = 1 - cheapest / first
    say(f"the cheapest rendition takes {figure(100 * cheapest / first)} % of the first one's bytes")
    chart = {}
    for scheme, delay_ms, way in itertools.product(("http", "https"), DELAYS_MS, ("single", "session")):
        ms = spread(repeat["segment_ms"] for repeat in found[scheme, delay_ms, "cheapest", way])
        chart[f"{scheme}, {delay_ms:g} ms, {NAMES[way]}"] = (ms.median, ms.least, ms.largest)
    bars(report.picture("http"), "Time to fetch one 6-s segment", "ms, median and range", chart)
