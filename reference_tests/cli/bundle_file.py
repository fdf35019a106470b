"""A golden bundle to be edited by tests, standard library only (docs/bundle-format.md)."""
import hashlib
import json
import pathlib
import shutil
import struct


class Bundle:
    """A copy of a bundle; `save` writes what was changed in `manifest`."""

    def __init__(self, source, to):
        self.path = pathlib.Path(to)
        shutil.copytree(source, self.path)
        self.manifest = json.loads((self.path / "manifest.json").read_text())

    def save(self):
        (self.path / "manifest.json").write_text(json.dumps(self.manifest))
        return self.path

    def entry(self, name, step=0):
        return next(t for t in self.manifest["tensors"] if t["name"] == name and t["step"] == step)

    def file(self, name="taps-000.safetensors"):
        return next(f for f in self.manifest["files"] if f["name"] == name)

    def place(self, entry):
        """Where the tensor's bytes are in its file: begin, end."""
        blob = (self.path / entry["file"]).read_bytes()
        (length,) = struct.unpack_from("<Q", blob)
        begin, end = json.loads(blob[8:8 + length])[entry["key"]]["data_offsets"]
        return 8 + length + begin, 8 + length + end

    def raw(self, entry):
        begin, end = self.place(entry)
        return (self.path / entry["file"]).read_bytes()[begin:end]

    def write(self, entry, raw, honest=True):
        """Other bytes for a tensor; honest: with the hashes that belong to them."""
        begin, end = self.place(entry)
        assert len(raw) == end - begin, entry["name"]
        with open(self.path / entry["file"], "r+b") as f:
            f.seek(begin)
            f.write(raw)
        if honest:
            entry["sha256"] = hashlib.sha256(raw).hexdigest()
            self.accept(entry["file"])
        return self.save()

    def accept(self, name):
        """The manifest agrees with a file as it lies there now."""
        blob = (self.path / name).read_bytes()
        self.file(name).update(bytes=len(blob), raw_bytes=len(blob), sha256=hashlib.sha256(blob).hexdigest())
        return self.save()

    def accept_config(self):
        text = json.dumps(self.manifest["config"], sort_keys=True, separators=(",", ":"))
        self.manifest["config_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        return self.save()

    def without(self, site):
        """The same run with a site not recorded."""
        gone = lambda name: name.endswith("." + site)
        self.manifest["tensors"] = [t for t in self.manifest["tensors"] if not gone(t["name"])]
        for t in self.manifest["tensors"]:
            t["deps"] = [d for d in t["deps"] if not gone(d)]
        return self.save()
