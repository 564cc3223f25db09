"""Small sources of seismic records for tests."""

import numpy as np

from jaxmodels.data import seismic_records

RATE = 20.0
SYNTHETIC = dict(num_records=6, num_held_out=4, stations=2, magnitude=(5.0, 6.0))
SYNTHETIC |= dict(seconds=20.0, distance=(8.0, 30.0), noise=(-6.0, 0.1))
SMALL = dict(sampling_rate=RATE, num_samples=200, channels=3, corner=1.0)


class Listed:
    """Records in a list, with the access of `builder.RecordFiles`."""

    def __init__(self, *records):
        self.records = records
        self.identity = str(len(records))

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]

    def __getitems__(self, indexes):
        return [self.records[index] for index in indexes]

    def where(self, index):
        return f"list: record {index}"


def shaking(seed, length=400, onset=100, rate=RATE, **fields):
    """A record that is quiet and then shakes; P is known unless said otherwise."""
    rng = np.random.default_rng(seed)
    waveform = rng.standard_normal((length, 3)) * 1e-5
    shake = rng.standard_normal((length, 3))
    time = np.arange(length - onset)[:, None] / rate
    waveform[onset:] += shake[: length - onset] * np.exp(-time / 3)
    names = {"name": f"r{seed}", "source_id": f"e{seed}", "station": f"S{seed}"}
    known = {"p_sample": float(onset), **names, **fields}
    return seismic_records.record(waveform, rate, **known)
