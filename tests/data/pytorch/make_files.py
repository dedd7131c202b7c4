#!/usr/bin/env python3
"""Write the .bin fixtures beside this file with torch: one state_dict, saved in three ways. Needs torch."""

from pathlib import Path

import torch

HERE = Path(__file__).parent


class Model(torch.nn.Module):
    """Its state_dict is an OrderedDict with _metadata, as transformers saves it."""

    def __init__(self) -> None:
        super().__init__()
        self.parameter = torch.nn.Parameter(torch.arange(6, dtype=torch.float32).reshape(2, 3))
        whole = torch.arange(12, dtype=torch.float32)
        for name, tensor in {
            "transposed": torch.arange(6, dtype=torch.float32).reshape(2, 3).t(),
            "whole": whole,
            "slice": whole[4:8],
            "every_second": whole.reshape(3, 4)[:, 1::2],
            "in_float16": torch.tensor([1.5, -2.0], dtype=torch.float16),
            "in_bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
            "in_int64": torch.tensor([3, -(2**40)]),
            "in_bool": torch.tensor([True, False]),
            "scalar": torch.tensor(7.0),
            "empty": torch.zeros(0, 3),
        }.items():
            self.register_buffer(name, tensor)


def main() -> None:
    state = Model().state_dict()
    torch.save(state, HERE / "state_dict.bin")
    # Plain dict, parameters kept as such, and a newer protocol: STACK_GLOBAL, MEMOIZE, FRAME.
    plain = dict(state)
    plain["parameter"] = torch.nn.Parameter(plain["parameter"])
    torch.save(plain, HERE / "protocol_4.bin", pickle_protocol=4)
    torch.save({"a": torch.zeros(2)}, HERE / "legacy.bin", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
