"""The README's Python example does what it says."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_runs_as_it_stands(make_clip, make_mask, tiny_weights, tmp_path, monkeypatch):
    make_clip("shot.mp4", frames=3)
    make_mask("mask.png")
    (example,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert 'weights="compact"' in example
    monkeypatch.chdir(tmp_path)
    exec(example.replace('"compact"', repr(str(tiny_weights))), {})
    assert sorted(path.name for path in Path("masks").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    assert Path("overlay.mp4").is_file()
