"""The picture of one broadened record: waveforms, Fourier and response spectra.

Shapes use T samples, C components, M samples of one record.
"""

import io

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from PIL import Image

from jaxmodels.metrics import response_spectrum, spectra
from jaxmodels.train.errors import ConfigError, StorageError

OBSERVED, LOW_PASS, SAMPLE = "#222222", "#1f77b4", "#d1495b"
MAX_WAVEFORMS = 8  # samples whose waveforms are drawn; of spectra, all are
MAX_BYTES = 150_000
FINEST, COARSEST = 110, 48  # dots an inch
COLORS = 64  # of a PNG: dense waveforms take a fourth of the bytes in a palette
DECADES = 5  # that an axis of amplitudes shows below its highest value


def draw(
    path, *, low_passed, samples, sampling_rate, observed=None, title="", components
):
    """Writes the PNG of a record, a row for each component.

    Left the waveforms, one above the other and in one scale; then Fourier amplitude
    spectra, smoothed as for the scores; right the response spectra at 5 % damping.

    Args:
        path: of the PNG.
        low_passed: [T, C] in m/s^2.
        samples: [M, T, C].
        sampling_rate: Hz.
        observed: [T, C] where the broadband record is known.
        title: above the figure.
        components: C names.

    Raises:
        ConfigError: the shapes do not fit each other.
        StorageError: the file cannot be written.
    """
    low_passed, samples = np.asarray(low_passed), np.asarray(samples)
    _check(low_passed, samples, observed, components)
    count = len(components)
    figure = Figure(figsize=(13, 0.7 + 2.9 * count), layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(
        count, 3, squeeze=False, sharex="col", width_ratios=(1.7, 1, 1)
    )
    for index, (name, row) in enumerate(zip(components, axes, strict=True)):
        traces = _traces(low_passed, samples, observed, index)
        _draw_waveforms(row[0], traces, sampling_rate, name)
        _draw_fourier(row[1], traces, sampling_rate)
        _draw_response(row[2], traces, sampling_rate)
    axes[0, 0].set_title("acceleration", fontsize=10)
    axes[0, 1].set_title("Fourier amplitude (m/s)", fontsize=10)
    axes[0, 2].set_title("response spectrum, 5 % (m/s²)", fontsize=10)
    axes[0, 1].legend(fontsize=8, framealpha=0.85, edgecolor="none")
    for axis, label in zip(axes[-1], ("s", "Hz", "period (s)"), strict=True):
        axis.set_xlabel(label)
    save(figure, path)


def save(figure, path, max_bytes=MAX_BYTES):
    """Writes a PNG at the finest resolution that takes at most `max_bytes`.

    Raises:
        StorageError: it cannot be written.
    """
    resolution: float = FINEST
    content = _png(figure, resolution)
    while len(content) > max_bytes and resolution > COARSEST:
        # Bytes grow a little slower than the area.
        fitting = resolution * (max_bytes / len(content)) ** 0.6
        resolution = max(COARSEST, min(fitting, 0.95 * resolution))
        content = _png(figure, resolution)
    path = epath.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from None


def _png(figure, resolution):
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=resolution)
    image = Image.open(drawn).convert("RGB")
    image.quantize(COLORS, dither=Image.Dither.NONE).save(
        packed, format="png", optimize=True
    )
    return packed.getvalue()


def _check(low_passed, samples, observed, components):
    shapes = [low_passed.shape, samples.shape[1:]]
    shapes += [] if observed is None else [np.shape(observed)]
    if low_passed.ndim != 2 or len(set(shapes)) > 1 or not len(samples):
        raise ConfigError(
            f"low-passed {low_passed.shape}, samples {samples.shape} and observed "
            f"{np.shape(observed)} must be [T, C], [M, T, C] and [T, C]"
        )
    if len(components) != low_passed.shape[1]:
        raise ConfigError(
            f"{len(components)} names for {low_passed.shape[1]} components; name each"
        )


def _traces(low_passed, samples, observed, component):
    """(label, color, style, waveform [T]) from the top down."""
    thick, thin = {"linewidth": 1.4}, {"linewidth": 0.8, "alpha": 0.6}
    traces = []
    if observed is not None:
        one = np.asarray(observed)[:, component]
        traces.append(("observed", OBSERVED, {**thick, "zorder": 3}, one))
    traces.append(("low-pass", LOW_PASS, thick, low_passed[:, component]))
    for index, sample in enumerate(samples):
        traces.append((f"sample {index}", SAMPLE, thin, sample[:, component]))
    return traces


def _draw_waveforms(axis, traces, sampling_rate, component):
    shown = traces[: len(traces) - max(0, _num_samples(traces) - MAX_WAVEFORMS)]
    scale = max(np.abs(waveform).max() for *_, waveform in shown) or 1.0
    time = np.arange(len(shown[0][-1])) / sampling_rate
    for place, (label, color, _, waveform) in enumerate(shown):
        axis.plot(time, waveform / scale - place, color=color, linewidth=0.5)
        peak = f"{label}\n{np.abs(waveform).max():.3g} m/s²"
        axis.text(1.01, -place, peak, fontsize=7, va="center", color=color,
                  transform=axis.get_yaxis_transform())  # fmt: skip
    axis.set_yticks([])
    axis.set_ylim(-len(shown) + 0.3, 0.9)
    axis.set_xlim(0, time[-1])
    axis.set_ylabel(component, rotation=0, fontsize=12, labelpad=12)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _num_samples(traces):
    return sum(color == SAMPLE for _, color, *_ in traces)


def _draw_fourier(axis, traces, sampling_rate):
    centers = spectra.resolved_centers(len(traces[0][-1]), sampling_rate)
    values = [
        spectra.smoothed_spectrum(waveform[:, None], sampling_rate, centers)
        for *_, waveform in traces
    ]
    _draw_spectra(axis, centers, values, traces)


def _draw_response(axis, traces, sampling_rate):
    periods = periods_of(sampling_rate, len(traces[0][-1]))
    values = [
        response_spectrum.psa(waveform, sampling_rate, periods)
        for *_, waveform in traces
    ]
    _draw_spectra(axis, periods, values, traces)


def _draw_spectra(axis, places, values, traces):
    first_sample = True
    for value, (label, color, style, _) in zip(values, traces, strict=True):
        if color == SAMPLE:
            label = f"samples ({_num_samples(traces)})" if first_sample else None
            first_sample = False
        axis.loglog(places, value, color=color, label=label, **style)
    top = max(np.max(value) for value in values)
    if top > 0:
        low = min(np.min(value) for value in values)
        axis.set_ylim(max(low, top * 10.0**-DECADES) / 1.5, top * 1.8)
    axis.grid(alpha=0.25, which="both", linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)


def periods_of(sampling_rate, length):
    """The periods that a window tells about: half its length, or two samples, in s."""
    periods = np.asarray(response_spectrum.PERIODS)
    shortest, longest = 2 / sampling_rate, length / sampling_rate / 2
    return periods[(periods >= shortest) & (periods <= longest)]
