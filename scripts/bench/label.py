"""What content credentials cost: signing as a share of a real swap's time, and how it grows with the file.

The first table signs what a real swap wrote: the clip is swapped by the pipeline (procrustes, the quickest method, so
that the share is the largest), and its signing is timed within. The second signs and checks files of growing size: the
same real video with its frames repeated as packets, and 1, 10 or 100 source clips. All are times by the clock; signing
writes the file once more, hashes it and checks what it wrote.

Usage: python scripts/bench/label.py [--source CLIP] [--target CLIP] [--rounds 5] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; read when torch is loaded

import av

import facepipe
from facepipe import weights
from facepipe.config import CredentialsConfig
from facepipe.demo import CLIPS
from facepipe.pipeline import swapping as swap_stage
from facepipe.provenance import Input, check, load_identity, prove, read_label, sign_file

AIM = 0.05


def swapping(source: Path, target: Path, out: Path, rounds: int) -> dict[str, Any]:
    """Seconds of stage swap and of the signing in it, medians of some rounds."""
    facepipe.align(source=source, target=target, out=out)
    spent: list[float] = []

    def timed(*given: Any) -> None:
        start = time.perf_counter()
        sign_file(*given)
        spent.append(time.perf_counter() - start)

    swaps = []
    with mock.patch.object(swap_stage, "sign_file", timed):
        for _ in range(rounds):
            shutil.rmtree(out / "swapped", ignore_errors=True)
            (outcome,) = [o for o in facepipe.swap(out=out).outcomes if o.stage == "swap"]
            swaps.append(outcome.seconds)
    swap, sign = statistics.median(swaps), statistics.median(spent)
    (video,) = (out / "swapped").glob("*.mp4")
    return {
        "clip": target.stem,
        "frames": outcome.frames,
        "bytes": video.stat().st_size,
        "swap": swap,
        "sign": sign,
        "share": sign / swap,
    }


def repeated(video: Path, path: Path, times: int) -> None:
    """The video some times over, without being encoded anew."""
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as out:
        stream = None
        for number in range(times):
            with av.open(str(video)) as source:
                given = source.streams.video[0]
                stream = stream or out.add_stream_from_template(given)
                length = given.duration or 0
                for packet in source.demux(given):
                    if packet.dts is not None and packet.pts is not None:
                        packet.dts += number * length
                        packet.pts += number * length
                        packet.stream = stream
                        out.mux(packet)


def growing(video: Path, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """A row for each size of file and number of source clips."""
    identity, statement = load_identity(CredentialsConfig()), read_label(video) or {}
    rows = []
    for times, sources in ((1, 1), (1, 10), (1, 100), (10, 1), (100, 1)):
        bare, part, path = folder / "bare.mp4", folder / "x.mp4.part", folder / "x.mp4"
        repeated(video, bare, times)
        inputs = [Input(video, "target", "0" * 64)] + [Input(bare, "source", f"{i:064x}") for i in range(sources)]
        signing, checking, status = [], [], ""
        for _ in range(rounds):
            shutil.copy(bare, part)
            start = time.perf_counter()
            sign_file(part, path, statement, inputs, identity)
            signing.append(time.perf_counter() - start)
            part.rename(path)
            start = time.perf_counter()
            status = check(path).status
            checking.append(time.perf_counter() - start)
        facts = {
            "bytes": bare.stat().st_size,
            "sources": sources,
            "manifest": path.stat().st_size - bare.stat().st_size,
        }
        times_ = {"sign": statistics.median(signing), "check": statistics.median(checking)}
        rows.append({**facts, **times_, "status": status})
    return rows


def first_use(folder: Path) -> dict[str, float]:
    """Seconds to make a certificate, to read it again, and to prove it."""
    os.environ["FACEPIPE_CREDENTIALS"] = str(folder / "own")
    found = {}
    for name in ("made", "read"):
        start = time.perf_counter()
        identity = load_identity(CredentialsConfig())
        found[name] = time.perf_counter() - start
    start = time.perf_counter()
    prove(identity)
    return {**found, "proved": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--target", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    source, target = given.source or weights.clip(CLIPS[0]), given.target or weights.clip(CLIPS[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        identity = first_use(folder)
        swap = swapping(source, target, folder / "RUN", given.rounds)
        (video,) = (folder / "RUN" / "swapped").glob("*.mp4")
        files = growing(video, folder, given.rounds)
    if given.json:
        print(json.dumps({"identity": identity, "swap": swap, "files": files}, indent=2))
        return
    print("certificate: " + ", ".join(f"{name} in {1000 * seconds:.0f} ms" for name, seconds in identity.items()))
    print(
        f"{swap['clip']}: {swap['frames']} frames, {swap['bytes'] / 1e6:.1f} MB; swap {swap['swap']:.2f} s, of which "
        f"signing {1000 * swap['sign']:.0f} ms, {100 * swap['share']:.2f} % (aim: under {100 * AIM:.0f} %)"
    )
    print("\n| video, MB | source clips | manifest, kB | sign, ms | check, ms | status |\n|--:|--:|--:|--:|--:|---|")
    for row in files:
        print(
            f"| {row['bytes'] / 1e6:.1f} | {row['sources']} | {row['manifest'] / 1e3:.1f} | {1000 * row['sign']:.0f} "
            f"| {1000 * row['check']:.0f} | {row['status']} |"
        )


if __name__ == "__main__":
    main()
