# SPDX-License-Identifier: MIT
import subprocess
import sys
import xml.etree.ElementTree as xml

from conftest import SOURCE


def test_the_picture_shows_what_the_model_chose(tmp_path):
    out = tmp_path / "inside.svg"
    done = subprocess.run([sys.executable, str(SOURCE / "examples/python/look_inside.py"), "--out", str(out)],
                          capture_output=True, text=True, check=True)
    picture = xml.parse(out).getroot()
    squares = [r for r in picture.iter("{http://www.w3.org/2000/svg}rect") if r.get("opacity")]
    tokens = int(done.stdout.split(": ")[1].split()[0])
    green = [r for r in squares if r.get("fill") == "#228833"]
    assert len(green) == 2 * tokens  # every token has two experts
    assert {r.get("fill") for r in squares} == {"#4477aa", "#aa3377", "#228833"}
