"""Networks of another run, read without knowing its config or optimizer."""

import jax

from jaxmodels.train import digest, model_file, packaged, stored
from jaxmodels.train.errors import ConfigError

FOLDER = "checkpoints"


def restore_networks(workdir, *, networks=None, step=None, preprocessing=None):
    """Weights of a trained run, as `module.apply` takes them.

    Args:
        workdir: folder of the run.
        networks: names; all when omitted.
        step: a certain step; the newest that verifies when omitted.
        preprocessing: that of `model.json`, to hold against what was trained on.

    Returns:
        {network: {"params": tree, collection: tree, ...}}: averaged weights where the
        run keeps them, on the default device. Containers come back as dicts.

    Raises:
        ConfigError: there is no checkpoint, no such step or no such network, or
            `preprocessing` is of another run.
        StorageError: no checkpoint can be restored.
    """
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def choose(record):
        if preprocessing is not None:
            told = record.get(stored.PREPROCESSING)
            model_file.check_same(preprocessing, told, workdir)
        found = _networks(record, networks, workdir)
        return {
            source: jax.ShapeDtypeStruct(
                tuple(entry["shape"]), entry["dtype"], sharding=place
            )
            for parts in found.values()
            for source, entry in parts.values()
        }

    loaded = _newest(workdir, step, choose)
    return {
        network: digest.nest(
            {name: loaded.leaves[source] for name, (source, _) in parts.items()}
        )
        for network, parts in _networks(loaded.record, networks, workdir).items()
    }


def init_from(workdir, state, networks=None):
    """Starts networks of a state from the weights of another run.

    What agrees in network, path, shape and dtype is taken, averaged weights where that
    run keeps them; the rest of the state stays, its optimizers' memory included.

    Args:
        workdir: folder of the other run, or of a packaged model.
        state: `TrainState` of arrays.
        networks: names; those that both runs have when omitted. "network/module" takes
            one module of a network, all of it.

    Returns:
        The state, each leaf placed as before, and a list of lines about what did not
        match.

    Raises:
        ConfigError: there is no checkpoint, no such network, nothing matches, or a
            module that is named is another one there.
        StorageError: no checkpoint can be restored.
    """
    if unknown := sorted(set(_roots(networks) or ()) - set(state.params)):
        raise ConfigError(
            f"init_from: this model has no network {unknown[0]!r}; "
            f"it has {', '.join(sorted(state.params))}"
        )
    own = {
        network: digest.flatten(
            {"params": params, **state.collections.get(network, {})}
        )
        for network, params in state.params.items()
        if networks is None or network in _roots(networks)
    }

    def choose(record):
        return {
            source: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for source, leaf in _match(own, record, networks, workdir)[0].values()
        }

    if packaged.is_packaged(workdir):
        loaded = _packaged(workdir, choose)
    else:
        loaded = _newest(workdir, None, choose)
    matched, lines = _match(own, loaded.record, networks, workdir)
    values = {target: loaded.leaves[source] for target, (source, _) in matched.items()}
    return _replaced(state, values), lines


def _newest(workdir, step, choose):
    stored.quiet_orbax()
    directory = stored.open_folder(workdir) / FOLDER
    steps = stored.list_steps(directory)
    if not steps:
        raise ConfigError(
            f"there is no checkpoint in {directory}; name the folder of a run, "
            f"which holds {FOLDER}/"
        )
    if step is not None and step not in steps:
        raise ConfigError(
            f"there is no checkpoint {step} in {directory}; "
            f"it holds {', '.join(map(str, steps))}"
        )
    return stored.newest(directory, steps if step is None else [step], choose)


def _packaged(workdir, choose):
    """The weights of a packaged model, named as in a checkpoint."""
    held = {}
    for name, value in packaged.flat(packaged.read(workdir)[1]).items():
        network, section, path = name.split("/", 2)
        source = (
            ("params", network)
            if section == "params"
            else ("collections", network, section)
        )
        held["/".join((*source, path))] = value
    record = {
        "leaves": {
            name: {"shape": list(value.shape), "dtype": value.dtype.name}
            for name, value in held.items()
        }
    }
    leaves = {
        name: jax.device_put(held[name], wanted.sharding)
        for name, wanted in choose(record).items()
    }
    return stored.Loaded(record, leaves, {})


def _networks(record, networks, workdir):
    """{network: {"params/...": (name in the checkpoint, entry)}}."""
    found: dict[str, dict] = {}
    # Averages last: they take the place of the parameters.
    for name in sorted(record["leaves"], key=lambda name: name.startswith("ema/")):
        section, *rest = name.split("/")
        if section in ("params", "ema"):
            rest.insert(1, "params")
        elif section != "collections":
            continue
        network, *path = rest
        entry = name, record["leaves"][name]
        found.setdefault(network, {})["/".join(path)] = entry
    if unknown := sorted(set(networks or ()) - set(found)):
        raise ConfigError(
            f"the run in {workdir} has no network {unknown[0]!r}; "
            f"it has {', '.join(sorted(found))}"
        )
    return {
        network: parts
        for network, parts in found.items()
        if networks is None or network in networks
    }


def _match(own, record, networks, workdir):
    """What agrees, {(network, path): (name in the checkpoint, leaf)}, and what not."""
    held = _networks(record, _roots(networks), workdir)
    matched, lines = {}, []
    broken: list[str] = []
    for network in sorted(own.keys() ^ held.keys()):
        lines.append(f"{network}: {_unmatched(network in own, workdir)}")
    for network in sorted(own.keys() & held.keys()):
        # What is named by its modules has to match; what is named whole may.
        told = lines if networks is None or network in networks else broken
        ours, theirs = (
            _named(network, parts[network], networks) for parts in (own, held)
        )
        for path in sorted(ours.keys() | theirs.keys()):
            name = f"{network}/{path.removeprefix('params/')}"
            if path not in ours or path not in theirs:
                told.append(f"{name}: {_unmatched(path in ours, workdir)}")
                continue
            source, entry = theirs[path]
            wants, holds = stored.describe(ours[path]), stored.describe(entry)
            if wants == holds:
                matched[network, path] = source, ours[path]
            else:
                told.append(
                    f"{name}: the model wants {wants}, {workdir} holds {holds}; "
                    "starts anew"
                )
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise ConfigError(
            f"{', '.join(networks)} are not those of {workdir}: {broken[0]}{more}; "
            "give both runs the same fields of them"
        )
    if not matched:
        raise ConfigError(
            f"nothing in {workdir} matches this model: {'; '.join(lines[:5])}"
        )
    return matched, lines


def _roots(networks):
    """The networks of a choice, or None: "model" of "model/encoder"."""
    return networks and [name.split("/")[0] for name in networks]


def _named(network, parts, networks):
    """Of {"params/...": value}, what a choice of networks and modules names."""
    if networks is None or network in networks:
        return parts
    modules = {name.split("/")[1] for name in networks if name.split("/")[0] == network}
    return {path: x for path, x in parts.items() if path.split("/")[1] in modules}


def _unmatched(missing, workdir):
    return f"not in {workdir}, starts anew" if missing else f"only in {workdir}, unused"


def _replaced(state, values):
    """The state with {(network, path): array} put in params, ema and collections."""

    def put(network, tree, prefix):
        leaves = {
            name: values.get((network, prefix + name), leaf)
            for name, leaf in digest.flatten(tree).items()
        }
        return jax.tree.unflatten(jax.tree.structure(tree), leaves.values())

    def put_params(trees):
        return {name: put(name, tree, "params/") for name, tree in trees.items()}

    return state.replace(
        params=put_params(state.params),
        ema=jax.tree.map(jax.numpy.copy, put_params(state.ema)),
        collections={
            name: put(name, tree, "") for name, tree in state.collections.items()
        },
    )
