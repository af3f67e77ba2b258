"""Make the bundled clips again from the two Debian packages they come from.

    python examples/make_bundle.py                      # fetches the packages with apt-get download
    python examples/make_bundle.py --debs FOLDER        # uses the .deb files that lie in FOLDER

Of each language it takes the digits 0-9, the single letters, the phonetic alphabet and 20 sentences of 2-6 s, and
writes them as FLAC (lossless, 16 bit, 8 kHz) with a manifest, the licence and the credits. The split into training and
validation is part of the manifest, so that everybody's validation figures are of the same clips. Another version of
libsndfile may compress to other bytes (and so to another sha256); the samples are the same.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
LIMIT_BYTES = 3_000_000
SENTENCES = 20
VALIDATION_SHARE = 0.1
# Sounds that are no speech, whatever their length.
NOT_SPEECH = {"tt-monkeys", "tt-weasels", "beep", "beeperr", "ascending-2tone", "descending-2tone"}
SPEAKERS = {
    "it": {
        "package": "asterisk-core-sounds-it-wav",
        "folder": "it_IT_m_Carlo",
        "language": "Italian",
        "speaker": "Carlo Flora (m)",
        "copyright": "2012 Carlo Flora, <http://www.segreterietelefoniche.it>",
        "credit": "Recorded by Carlo Flora (http://www.carloflora.com); translated by Silvia Petrin "
        "(traduttore@segreterietelefoniche.it) from the English text distributed from http://www.digium.com; "
        "voice available making an order at http://www.segreterietelefoniche.it",
    },
    "ru": {
        "package": "asterisk-core-sounds-ru-wav",
        "folder": "ru_RU_f_IvrvoiceRU",
        "language": "Russian",
        "speaker": "IvrvoiceRU (f)",
        "copyright": "2010, Maxim",
        "credit": "Provided by Maxim Topal, ivrvoice.ru (http://www.ivrvoice.ru)",
    },
}


def unpack(debs: Path, scratch: Path) -> dict[str, Path]:
    """Unpack both packages below `scratch`; return the root of each."""
    roots = {}
    for key, about in SPEAKERS.items():
        found = sorted(debs.glob(about["package"] + "_*.deb"))
        if not found:
            subprocess.run(["apt-get", "download", about["package"]], cwd=debs, check=True)
            found = sorted(debs.glob(about["package"] + "_*.deb"))
        roots[key] = scratch / key
        subprocess.run(["dpkg-deb", "-x", str(found[-1].resolve()), str(roots[key])], check=True)
    return roots


def read(path: Path) -> np.ndarray:
    """Return the 16-bit samples of a clip, which must be 8 kHz mono."""
    samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    if rate != RATE or samples.shape[1] != 1:
        raise SystemExit(f"{path}: expected {RATE} Hz mono, got {rate} Hz with {samples.shape[1]} channels")
    return samples[:, 0]


def sentence_names(folders: dict[str, Path]) -> list[str]:
    """Return 20 names, evenly spread over the alphabet, whose clips last 2-6 s in every language."""
    names = []
    for path in sorted(folders["it"].glob("*.wav")):
        clips = [folder / path.name for folder in folders.values()]
        if path.stem not in NOT_SPEECH and all(c.exists() and 2 * RATE <= len(read(c)) <= 6 * RATE for c in clips):
            names.append(path.stem)
    return [names[i] for i in np.linspace(0, len(names) - 1, SENTENCES).round().astype(int)]


def words(folder: Path) -> list[Path]:
    """Return the digits, single letters and phonetic words of one language."""
    keep = {"digits": r"[0-9]", "letters": r"[a-z]", "phonetic": r".*"}
    return [
        path
        for kind, pattern in keep.items()
        for path in sorted((folder / kind).glob("*.wav"))
        if re.fullmatch(pattern, path.stem)
    ]


def mark_validation(clips: list[dict]) -> None:
    """Hold out about a tenth of the seconds of every speaker's words and of every speaker's sentences."""
    for speaker in SPEAKERS:
        for sentences in (False, True):
            group = [c for c in clips if c["speaker"] == speaker and (c["kind"] == "sentences") == sentences]
            wanted = VALIDATION_SHARE * sum(c["seconds"] for c in group)
            held = 0.0
            # A hash of the path, not the order of the alphabet: else all held-out words would begin with "a".
            for clip in sorted(group, key=lambda c: hashlib.sha256(c["path"].encode()).hexdigest()):
                if held + clip["seconds"] / 2 > wanted:
                    break
                clip["split"] = "validation"
                held += clip["seconds"]


def licence_text(copyright_file: Path) -> str:
    """Return the full text of CC-BY-3.0 as the package's copyright file gives it."""
    stanza = re.split(r"^License: CC-BY-3\.0\n(?= )", copyright_file.read_text("utf-8"), flags=re.MULTILINE)[-1]
    lines = [line[1:] if line.startswith(" ") else line for line in stanza.splitlines()]
    body = "\n".join("" if line == "." else line for line in lines).strip()
    if "Creative Commons" not in body or "Attribution" not in body:
        raise SystemExit(f"{copyright_file}: no text of CC-BY-3.0 found")
    return (
        "Creative Commons Attribution 3.0 Unported (CC-BY-3.0)\n"
        "https://creativecommons.org/licenses/by/3.0/legalcode\n\n"
        "This licence covers the sound files in this folder. See CREDITS.txt.\n\n" + body + "\n"
    )


def credits_text(versions: dict[str, str]) -> str:
    """Return the credits that the licence asks for."""
    lines = [
        "The bundled clips are a subset, re-encoded to FLAC, of the sounds for the Asterisk telephone exchange",
        "(http://downloads.asterisk.org/pub/telephony/asterisk/), as packaged by Debian. Nothing else was changed: the",
        "samples are the packages' 8 kHz 16-bit samples. Licence: CC-BY-3.0, see LICENSE-CC-BY-3.0.txt.",
        "",
    ]
    for key, about in SPEAKERS.items():
        lines += [
            f"{key}/  {about['language']}, speaker {about['speaker']}",
            f"     {about['credit']}",
            f"     Copyright: {about['copyright']}",
            f"     Debian package {about['package']} {versions[key]}",
            "",
        ]
    return "\n".join(lines)


def build(roots: dict[str, Path], out: Path, versions: dict[str, str]) -> list[dict]:
    """Write clips, manifest, licence and credits to `out`; return the manifest's clips."""
    folders = {k: roots[k] / "usr/share/asterisk/sounds" / SPEAKERS[k]["folder"] for k in SPEAKERS}
    sentences = sentence_names(folders)
    clips = []
    for speaker, folder in folders.items():
        sources = [(path.parent.name, path) for path in words(folder)]
        sources += [("sentences", folder / f"{name}.wav") for name in sentences]
        for kind, source in sources:
            samples = read(source)
            if len(samples) == 0:  # the Russian package ships an empty file
                print(f"left out, no samples: {source.name}")
                continue
            target = out / speaker / kind / f"{source.stem}.flac"
            target.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(target, samples, RATE, format="FLAC", subtype="PCM_16", compression_level=1.0)
            clips.append(
                {
                    "path": target.relative_to(out).as_posix(),
                    "speaker": speaker,
                    "kind": kind,
                    "samples": len(samples),
                    "seconds": round(len(samples) / RATE, 4),
                    "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
                    "split": "train",
                }
            )
    mark_validation(clips)
    speakers = {k: {n: about[n] for n in ("language", "speaker", "credit")} for k, about in SPEAKERS.items()}
    head = json.dumps({"sample_rate": RATE, "licence": "CC-BY-3.0", "speakers": speakers}, indent=1)
    rows = ",\n  ".join(json.dumps(clip) for clip in sorted(clips, key=lambda c: c["path"]))
    (out / "manifest.json").write_text(head[:-2] + ',\n "clips": [\n  ' + rows + "\n ]\n}\n", "utf-8")
    licence = licence_text(roots["it"] / "usr/share/doc" / SPEAKERS["it"]["package"] / "copyright")
    (out / "LICENSE-CC-BY-3.0.txt").write_text(licence, "utf-8")
    (out / "CREDITS.txt").write_text(credits_text(versions), "utf-8")
    return clips


def main() -> None:
    parser = argparse.ArgumentParser(description="Make wavedil's bundled clips from their Debian packages.")
    default = Path(__file__).resolve().parents[1] / "wavedil" / "audio" / "bundled"
    parser.add_argument("--out", type=Path, default=default, help=f"folder to (re)write; default {default}")
    parser.add_argument("--debs", type=Path, help="folder that holds the .deb files; default: fetch them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        debs = args.debs or Path(scratch) / "debs"
        debs.mkdir(parents=True, exist_ok=True)
        roots = unpack(debs, Path(scratch))
        versions = {k: sorted(debs.glob(a["package"] + "_*.deb"))[-1].stem.split("_")[1] for k, a in SPEAKERS.items()}
        for name in SPEAKERS:
            shutil.rmtree(args.out / name, ignore_errors=True)
        args.out.mkdir(parents=True, exist_ok=True)
        clips = build(roots, args.out, versions)
    size = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    for split in ("train", "validation"):
        part = [c for c in clips if c["split"] == split]
        print(f"{split}: {len(part)} clips, {sum(c['seconds'] for c in part):.1f} s")
    print(f"{args.out}: {size:,} bytes")
    if size > LIMIT_BYTES:
        raise SystemExit(f"expected at most {LIMIT_BYTES:,} bytes, got {size:,}")


if __name__ == "__main__":
    main()
