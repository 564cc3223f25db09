"""What pipelines share that run a trained model: finding, reading and naming it."""

from typing import Any, NamedTuple

from jaxmodels.train import checkpoint, model_file, packaged
from jaxmodels.train.errors import ConfigError


class Trained(NamedTuple):
    """A model of a run or of a package.

    Attributes:
        model: Linen module.
        variables: what `model.apply` takes, averaged where the run keeps that.
        preprocessing: of `model.json`.
        source: where it was read from, for messages and provenance.
    """

    model: Any
    variables: Any
    preprocessing: dict[str, Any]
    source: str


def read(folder, own, find_network, *, name, noun, config):
    """Reads a model.

    Args:
        folder: of a run, with `model.json` and `checkpoints/`, or of a packaged model;
            None for the one that comes with this package.
        own: folder of that one.
        find_network: (folder, networks) -> name of the one that is read.
        name: of that one in `jaxmodels/pretrained`, for its source.
        noun: what such a model is called in a message.
        config: that trains one, for the message.

    Raises:
        ConfigError: there is no such model.
        StorageError: no checkpoint can be restored.
    """
    if folder is None and not packaged.is_packaged(own):
        raise ConfigError(
            f"this installation has no trained {noun} of its own; give --checkpoint, "
            f"the folder of a run such as that of {config}"
        )
    folder = own if folder is None else folder
    if packaged.is_packaged(folder):
        networks, variables, preprocessing = packaged.read(folder)
        network = find_network(folder, networks)
    else:
        networks, preprocessing = model_file.read(folder)
        network = find_network(folder, networks)
        variables = checkpoint.restore_networks(
            folder, networks=[network], preprocessing=preprocessing
        )
    source = f"jaxmodels/pretrained/{name}" if folder == own else str(folder)
    return Trained(networks[network], variables[network], preprocessing, source)


def find_network(folder, networks, kinds, *, noun, config):
    """The name of the one network of some classes among those of a run.

    Args:
        kinds: class, or tuple of them.
        noun: what they are called in a message, plural.
        config: that trains one, for the message.

    Raises:
        ConfigError: there is none, or more than one.
    """
    names = [name for name, net in networks.items() if isinstance(net, kinds)]
    if len(names) != 1:
        raise ConfigError(
            f"{folder} holds {len(names)} {noun} among its networks "
            f"({', '.join(networks)}); name the run of one, such as of {config}"
        )
    return names[0]


def trained_on(about):
    """What a model was trained on, in a few words, of its preprocessing."""
    if text := about.get("trained_on"):
        return text
    split = about.get("splits", {}).get("train", "train")
    return f"{about.get('dataset', 'an unnamed data set')}, split {split}"
