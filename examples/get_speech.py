"""Fetch real speech: five speakers of 23 to 30 minutes each, 8 or 16 kHz, one folder a language, and what they say.

    python examples/get_speech.py                # speech/en, es, fr, it and ru
    python examples/get_speech.py it ru -o data  # data/it and data/ru
    python examples/get_speech.py it it-menardi -o italian  # a second Italian speaker, of the same words
    python examples/get_speech.py en --rate 16000  # speech-16k/en; decodes G.722, with PyAV (pip install av)

Each folder gets texts.csv (file,text), where the texts are known.
They are the sounds of the Asterisk telephone exchange as Debian packages them. On Debian, Ubuntu and their like this
needs no rights: `apt-get download` and `dpkg-deb -x`. The audio keeps its own licences, which are printed and copied.
"""

import argparse
import csv
import gzip
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

# language: folder in the package, speaker, licence, and the minutes of speech that must be there
LANGUAGES = {
    "en": ("en_US_f_Allison", "Allison Smith (f)", "CC-BY-SA-3.0", 20),
    "es": ("es_MX_f_Allison", "Allison Smith (f)", "CC-BY-SA-3.0", 20),
    "fr": ("fr_CA_f_June", "June Wallack (f)", "CC-BY-SA-3.0", 20),
    "it": ("it_IT_m_Carlo", "Carlo Flora (m)", "CC-BY-3.0", 20),
    "ru": ("ru_RU_f_IvrvoiceRU", "IvrvoiceRU (f), provided by Maxim Topal, ivrvoice.ru", "CC-BY-3.0", 20),
}
SPEAKERS = LANGUAGES | {
    "it-menardi": ("it_IT_f_Menardi", "Paola Dal Zot (f), made by Marco Menardi and her, www.voip.ammdomus.it",
                   "CC-BY-SA-3.0", 20),
}  # fmt: skip
PACKAGES = {name: f"asterisk-core-sounds-{name}-wav" for name in LANGUAGES} | {
    "it-menardi": "asterisk-prompt-it-menardi-wav",
}
ELSEWHERE = """\
{tools} not found: this needs Debian, Ubuntu or the like. Elsewhere, either run it in a container,
    docker run --rm -v "$PWD:/data" -w /data debian:stable sh -c \\
        "apt-get update && cd /tmp && apt-get download {packages} \\
         && for f in *.deb; do dpkg-deb -x $f /data/asterisk; done"
or fetch asterisk-core-sounds-XX-wav from https://downloads.asterisk.org/pub/telephony/sounds/ by hand, and unpack each
language into a folder of its own below {out}. Any other recordings will do as well: one folder for each speaker."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE",
                        help=f"of {', '.join(SPEAKERS)}; default: {', '.join(LANGUAGES)}")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, help="folder to make (default: speech, or speech-16k)")
    parser.add_argument("--rate", type=int, choices=(8000, 16000), default=8000, help="in Hz (default: 8000)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.languages) - set(SPEAKERS))
    if unknown:
        parser.error(f"languages must be of {', '.join(SPEAKERS)}, got {', '.join(unknown)}")
    wanted, rate = arguments.languages or list(LANGUAGES), arguments.rate
    if rate == 16000:
        only_slow = sorted(set(wanted) - set(LANGUAGES))
        if only_slow:
            parser.error(f"at 16 kHz there are only {', '.join(LANGUAGES)}, got {', '.join(only_slow)}")
        if importlib.util.find_spec("av") is None:
            sys.exit("--rate 16000 needs PyAV, which decodes G.722: pip install av")
    for language in wanted:
        get(language, arguments.out or Path("speech" if rate == 8000 else "speech-16k"), rate)


def get(language, out, rate=8000):
    """Make OUT/LANGUAGE, unless a whole one is there."""
    inside, speaker, licence, least = SPEAKERS[language]
    package, folder = PACKAGES[language], out / language
    if rate == 16000:
        package = package.removesuffix("-wav") + "-g722"
    if not folder.exists():
        missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
        if missing:
            packages = " ".join(PACKAGES[name] for name in LANGUAGES)
            sys.exit(ELSEWHERE.format(tools=" and ".join(missing), packages=packages, out=out))
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out) as place:  # on the same disk, so that it can be renamed
            texts = [f"asterisk-core-sounds-{language}"] if language in LANGUAGES else []
            print(f"{language}: fetching {package}")
            command("apt-get", "download", package, *texts, cwd=place, hint="`apt-get update` (as root) may help")
            for archive in sorted(Path(place).glob("*.deb")):
                command("dpkg-deb", "-x", archive.name, "unpacked", cwd=place)
            unpacked = Path(place, "unpacked", "usr", "share")
            sounds = unpacked / "asterisk" / "sounds" / inside
            shutil.copy(unpacked / "doc" / package / "copyright", sounds / "COPYRIGHT")
            shutil.rmtree(sounds / "silence", ignore_errors=True)  # holds silence, of which there is enough
            for path in sorted(sounds.rglob("*.g722")):
                decode_g722(path)
            for name in texts:
                write_texts(unpacked / "doc" / name / f"core-sounds-{language}.txt.gz", sounds)
            sounds.rename(folder)
    minutes, clips = check(folder, rate)
    if minutes < least:
        sys.exit(f"{folder}: expected at least {least} minutes of speech, got {minutes:.1f}: remove it and try again")
    print(f"{language}: {clips} clips, {minutes:.1f} min, {speaker}; licence {licence}, see {folder / 'COPYRIGHT'}")


def decode_g722(path):
    """Put a WAV file in the place of a G.722 file."""
    import av

    with av.open(path, format="g722") as file:
        frames = [frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)]
    soundfile.write(path.with_suffix(".wav"), np.concatenate(frames) if frames else np.zeros(0, np.int16), 16000)
    path.unlink()


def write_texts(source, folder):
    """Write FOLDER/texts.csv of a list with lines ``name: text``; those of clips that are not there are left out."""
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        pairs = [line.split(":", 1) for line in lines if ":" in line and not line.startswith(";")]
    with open(folder / "texts.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("file", "text"))
        table.writerows((f"{name.strip()}.wav", text.strip()) for name, text in pairs
                        if (folder / f"{name.strip()}.wav").is_file())  # fmt: skip


def check(folder, rate=8000):
    """Minutes and number of the clips, all of which must be mono and of this rate."""
    frames = clips = 0
    for path in sorted(folder.rglob("*.wav")):
        about = soundfile.info(path)
        if (about.samplerate, about.channels) != (rate, 1):
            sys.exit(f"{path}: expected {rate} Hz and one channel, got {about.samplerate} Hz and {about.channels}")
        frames, clips = frames + about.frames, clips + (about.frames > 0)  # one clip of the Russian set is empty
    return frames / rate / 60, clips


def command(*words, cwd, hint=""):
    """Run a program quietly; what it says is shown if it fails."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed. {hint}\n{done.stdout}{done.stderr}".rstrip())


if __name__ == "__main__":
    main()
