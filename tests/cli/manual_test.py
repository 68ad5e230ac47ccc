#!/usr/bin/env python3
"""Every command and flag that --help of the tool shows is in its completions for each shell and in its man page.

    python3 tests/cli/manual_test.py out/dev/bin/interlace
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}{done.stdout}"
    return done.stdout


def help_of(tool: str, path: list[str]) -> tuple[list[str], list[str]]:
    """Flags and commands in the help of one command."""
    flags, commands, section = [], [], ""
    for line in run(tool, *path, "--help").split("\n"):
        if re.match(r"\S.*:$", line):
            section = line[:-1]
        elif section == "Subcommands" and (found := re.match(r"  (\S+) ", line)):
            commands.append(found[1])
        elif found := re.match(r"  (-\S+)", line):
            flags += [name.split("{")[0] for name in found[1].split(",")]
    return flags, commands


def every_command(tool: str, path: list[str]):
    flags, commands = help_of(tool, path)
    assert "--help" in flags, f"no flags were found in the help of {path}"
    yield path, flags, commands
    for command in commands:
        yield from every_command(tool, [*path, command])


def main() -> int:
    tool = sys.argv[1]
    scripts = {shell: run(tool, "completion", shell) for shell in ("bash", "zsh", "fish")}
    checked = 0
    with tempfile.TemporaryDirectory(prefix="interlace-man-") as folder:
        run(tool, "man", "--dir", folder)
        pages = {page.name: page.read_text() for page in pathlib.Path(folder).iterdir()}
        for path, flags, commands in every_command(tool, []):
            where = " ".join(["interlace", *path])
            page = pages.pop("-".join(["interlace", *path]) + ".1")
            assert page == run(tool, "man", *path), f"the page of {where} is another in the folder"
            bash = re.search(r'    "%s"\)\n      if (.*)' % re.escape(where), scripts["bash"])[1]
            zsh = re.search(r"\n%s\(\) \{\n(.*?)\n\}" % ("_" + where.replace(" ", "_").replace("-", "_")),
                            scripts["zsh"], re.S)[1]
            fish = [line for line in scripts["fish"].split("\n") if f"'{where}'\"" in line]
            for flag in flags:
                checked += 1
                name = flag.lstrip("-")
                assert re.search(r'[" ]%s[" ]' % re.escape(flag), bash), f"bash: {flag} of {where}"
                assert f"'*{flag}[" in zsh, f"zsh: {flag} of {where}"
                assert any(f" -l {name} " in line or f" -s {name} " in line for line in fish), f"fish: {flag} of {where}"
                assert "\\fB" + flag.replace("-", "\\-") + "\\fR" in page, f"man: {flag} of {where}"
            for command in commands:
                assert re.search(r'[" ]%s[" ]' % re.escape(command), bash), f"bash: {command} of {where}"
                assert any(f" -a {command} " in line for line in fish), f"fish: {command} of {where}"
                assert f"'{command}:" in zsh, f"zsh: {command} of {where}"
                assert "interlace" in page and command.replace("-", "\\-") + "\\fR(1)" in page, f"man: {command} of {where}"
        assert not pages, f"pages of no command: {list(pages)}"
    # What the shells that are here say of the scripts; the others' are read above alone.
    for shell in ("bash", "zsh", "fish"):
        if any(os.access(f"{folder}/{shell}", os.X_OK) for folder in os.environ["PATH"].split(":")):
            done = subprocess.run([shell, "-n"], input=scripts[shell], capture_output=True, text=True, check=False)
            assert done.returncode == 0 and not done.stderr, f"{shell}: {done.stderr}"
    print(f"{checked} flags are in three completions and in the man pages")
    assert checked > 100
    return 0


if __name__ == "__main__":
    sys.exit(main())
