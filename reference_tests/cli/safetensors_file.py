"""safetensors with the standard library: parse, numbers, and comparison with a golden tap."""
import array
import json
import struct

sizes = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E8M0": 1}
codes = {"F64": "d", "I64": "q", "F32": "f", "I32": "i"}


class Tensor:
    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, shape, data

    def rows(self, begin, end):
        each = len(self.data) // self.shape[0]
        return Tensor(self.dtype, [end - begin, *self.shape[1:]], self.data[begin * each:end * each])


def parse(blob):
    (length,) = struct.unpack_from("<Q", blob)
    header = json.loads(blob[8:8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, t in sorted(header.items()):
        begin, end = t["data_offsets"]
        count = 1
        for n in t["shape"]:
            count *= n
        if end - begin != count * sizes[t["dtype"]]:
            raise ValueError(f"{name}: {end - begin} bytes for {t['dtype']} {t['shape']}")
        tensors[name] = Tensor(t["dtype"], t["shape"], blob[8 + length + begin:8 + length + end])
    return tensors


def numbers(t):
    if t.dtype == "BF16":  # the high half of a float
        return array.array("f", b"".join(b"\0\0" + t.data[i:i + 2] for i in range(0, len(t.data), 2)))
    return array.array(codes[t.dtype], t.data)


def same(case, name, found, golden, leading, wide=1e-12, narrow=1e-6):
    """Bits for BF16 and integers; `wide` of the largest magnitude for F64, `narrow` where it was written as F32."""
    shape = golden.shape[1:] if leading and len(golden.shape) == len(found.shape) + 1 else golden.shape
    case.assertEqual(found.shape, shape, name)
    if golden.dtype != "F64":
        case.assertEqual(found.dtype, golden.dtype, name)
        case.assertEqual(found.data, golden.data, f"{name}: other bits")
        return
    a, b = numbers(found), numbers(golden)
    limit = (wide if found.dtype == "F64" else narrow) * max(map(abs, b))
    worst = max(abs(x - y) for x, y in zip(a, b))
    case.assertLessEqual(worst, limit, name)
