"""Debian packages without their services: installed by apt, or unpacked into a private directory without root."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


class Unavailable(Exception):
    """The packages cannot be had here; the text says why and what to do."""


def install(packages: list[str]) -> bool:
    """True when apt has installed `packages` system-wide; False when this user may not (neither root nor sudo)."""
    prefix: list[str] = []
    if os.geteuid() != 0:
        if not shutil.which("sudo"):
            return False
        prefix = ["sudo"] if sys.stdin and sys.stdin.isatty() else ["sudo", "-n"]
        if subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
            return False
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    _run([*apt, "update", "-qq"])
    _run([*apt, "install", "-y", "-qq", "--no-install-recommends", *packages])
    return True


def unpack(packages: list[str], into: Path, suite: str | None = None) -> Path:
    """`into` holds the unpacked `packages` and all they depend on, libc included; the system is untouched.

    `suite` is a release of the distribution, by default the one of this machine.
    """
    if into.is_dir():
        return into
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Unavailable("this is no Debian or Ubuntu: there is no apt-get")
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".unpack-") as scratch:
        state, root = Path(scratch, "apt"), Path(scratch, "root")
        for directory in (state / "lists/partial", state / "archives/partial", root):
            directory.mkdir(parents=True)
        (state / "status").touch()  # nothing is installed: apt fetches the whole closure
        (state / "sources.list").write_text(_sources(suite))
        apt = ["apt-get", *_private(state)]
        _run([*apt, "update", "-qq"])
        _run([*apt, "install", "-y", "-qq", "--no-install-recommends", "--download-only", *packages])
        for deb in sorted((state / "archives").glob("*.deb")):
            _run(["dpkg-deb", "-x", str(deb), str(root)])
        try:
            root.rename(into)
        except OSError:  # somebody else was faster
            if not into.is_dir():
                raise
    return into


def command(root: Path, program: Path) -> list[str]:
    """The argv that runs `program`, unpacked under `root`, with the loader and the libraries of its own release."""
    libraries = [d for d in (*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")) if d.is_dir()]
    for pattern in ("usr/lib/*/ld-linux-*.so.*", "lib/*/ld-linux-*.so.*", "usr/lib/ld-linux-*.so.*", "lib*/ld-linux*"):
        for loader in root.glob(pattern):
            return [str(loader), "--library-path", ":".join(map(str, libraries)), str(program)]
    raise Unavailable(f"no dynamic loader under {root}: remove that directory and try again")


def _sources(suite: str | None) -> str:
    """The lines of a sources.list for `suite`, from the mirrors that this machine itself uses."""
    listing = subprocess.run(["apt-get", "update", "--print-uris"], capture_output=True, text=True).stdout
    mirrors = {name: base for base, name in re.findall(r"^'(\S+)/dists/([^/\s]+)/InRelease'", listing, re.MULTILINE)}
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE))
    own = release.get("VERSION_CODENAME", "")
    if own not in mirrors:
        raise Unavailable(f"apt's sources name no mirror of this release ({own or 'unknown'})")
    keyring = Path(f"/usr/share/keyrings/{release['ID']}-archive-keyring.gpg")
    if not keyring.exists():
        raise Unavailable(f"{keyring} is missing: apt cannot check signatures")
    suites = {suite or own: mirrors[own]}
    if suite in (None, own) and f"{own}-security" in mirrors:
        suites[f"{own}-security"] = mirrors[f"{own}-security"]
    components = "main universe" if release["ID"] == "ubuntu" else "main"
    return "".join(f"deb [signed-by={keyring}] {base} {name} {components}\n" for name, base in suites.items())


def _private(state: Path) -> list[str]:
    """The options that keep apt inside `state`, without root, locks or the machine's own package lists."""
    options = {
        "Dir::Etc::SourceList": state / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State": state,
        "Dir::State::Lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Cache::archives": state / "archives",
        "Dir::Log": state,
        "APT::Sandbox::User": "",
        "Acquire::Check-Valid-Until": "false",  # a mirror of a moving suite may lag behind its expiry date
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["(no output)"]
        words = [word for word in argv if "::" not in word and word != "-o"]
        raise Unavailable(f"`{' '.join(words)}` ended with code {done.returncode}: {said[-1]}")
