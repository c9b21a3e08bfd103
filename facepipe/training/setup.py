"""From the faces of a run to a training that can start or go on: pictures on disk, nets, what to measure with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facepipe import geometry
from facepipe.backends.embedders import InceptionResnetV1, box_to_crop
from facepipe.config import AlignConfig, Config, TrainConfig
from facepipe.errors import CheckpointError, TrainingError
from facepipe.methods.faceset import FaceSet, find_twins
from facepipe.methods.view import BORDER, Window, cut_settings, find_window, view_of
from facepipe.metrics import cosine_similarity
from facepipe.networks import Architecture, architecture
from facepipe.people import mean_embedding
from facepipe.training import checkpoint
from facepipe.training.data import Loader, Person, write_person
from facepipe.training.objective import IdentityLoss
from facepipe.training.state import Trainee
from facepipe.training.team import Team
from facepipe.types import OTHER, SIDES, Side
from facepipe.workspace import digest, read_marker, write_marker

__all__ = ["Setup", "prepare", "shape_of"]

_MOST = 1500  # pictures of a person that the linear start is computed from
_ONE_PERSON = 0.75  # cosine similarity (irv1) of two mean embeddings above which they are one person's


def shape_of(config: TrainConfig, device: str) -> Architecture:
    """The architecture that the settings ask for; ``auto`` depends on the device."""
    preset = config.model
    if preset == "auto":
        preset = "df-128" if device.startswith("cuda") else "cpu-64"
    return architecture(preset, config.architecture)


def prepare(
    folder: Path, sets: Mapping[Side, FaceSet], align: AlignConfig, config: TrainConfig, shape: Architecture
) -> None:
    """Write what a training needs into its folder, unless it is there: both persons' pictures, and the facts of them.

    Raises
    ------
    TrainingError
        Both are one person.
    CheckpointError
        The folder holds a training of another architecture, or of faces aligned otherwise.
    """
    embeddings = [mean_embedding(sets[side].faces.embedding) for side in SIDES]
    alike = float(cosine_similarity(*embeddings)) if all(one.any() for one in embeddings) else 0.0
    if alike > _ONE_PERSON:
        raise TrainingError(f"source and target show one person (similarity {alike:.2f}, irv1); a swap takes two")
    folder.mkdir(parents=True, exist_ok=True)
    facts = _facts(folder, sets, align, config, shape)
    key = digest({**facts, "faces": [_stamp(sets[side]) for side in SIDES]})
    if read_marker(folder / "setup.json").get("key") == key:
        return
    view, window = view_of(facts), Window(*facts["window"])
    for side in SIDES:
        twins = find_twins(sets[side], sets[OTHER[side]], view, shape.size, held_out=True)
        write_person(folder / f"faces-{side}", sets[side], sets[OTHER[side]].mean, view, window, shape.size, twins)
    write_marker(folder / "setup.json", {"key": key, "facts": facts})


def _facts(
    folder: Path, sets: Mapping[Side, FaceSet], align: AlignConfig, config: TrainConfig, shape: Architecture
) -> dict[str, Any]:
    """What checkpoints tell of a net's pictures; a net that was begun already keeps its window."""
    begun = checkpoint.newest_state(folder)
    facts: dict[str, Any] = {
        "architecture": asdict(shape),
        "view": config.view,
        "template": align.template,
        "margin": align.margin,
        "size": align.size,
        "held_out": config.held_out,
    }
    if begun is None:
        window = find_window([(one.faces[one.train], one.crops.sides[one.train]) for one in sets.values()])
    else:
        _check_begun(folder, begun, checkpoint.as_json(facts))
        window = Window(*begun["window"])
    return {
        **facts,
        "window": [window.x, window.y, window.side],
        "region": _region(sets, window),
        "shapes": {side: sets[side].mean.round(5).tolist() for side in SIDES},
    }


def _check_begun(folder: Path, begun: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse to go on with a net of another architecture, or that was begun with other pictures."""
    again = f"delete {folder} to begin anew"
    if begun["architecture"] != facts["architecture"]:
        wanted = {k: v for k, v in facts["architecture"].items() if begun["architecture"].get(k) != v}
        raise CheckpointError(f"{folder}: holds a net of another architecture (differs in {wanted}); {again}")
    for name in ("view", *cut_settings(facts["view"])):
        if name not in begun:
            raise CheckpointError(f"{folder}: trained by an older facepipe, which had no setting {name}; {again}")
        if begun[name] != facts[name]:
            raise CheckpointError(f"{folder}: trained with {name} {begun[name]}, not {facts[name]}; {again}")


def _stamp(faces: FaceSet) -> str:
    table = faces.faces
    return digest([table.frame_to_crop.tolist(), faces.train.tolist(), faces.clip.tolist()])


def _region(sets: Mapping[Side, FaceSet], window: Window) -> list[float]:
    """What the identity net looks at, as a box of the stored picture in parts of its side: the median over faces."""
    edges = InceptionResnetV1.crop_size[0] * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]) - 0.5
    boxes = []
    for faces in sets.values():
        for face, crop in zip(faces.faces[faces.train], faces.crops.sides[faces.train].tolist(), strict=True):
            matrix = window.crop_to_window(crop, 1000, border=BORDER)
            whole = (2**20, 2**20)
            to_crop = box_to_crop(face.box[0], InceptionResnetV1.crop_size, margin=32, frame_size=whole)
            placed = geometry.apply(geometry.compose(geometry.invert(to_crop), face.frame_to_crop[0], matrix), edges)
            boxes.append([*placed.min(0), *placed.max(0)])
    middle = np.clip(np.median(boxes, axis=0) / 1000, 0, 1)
    return [round(float(value), 4) for value in middle]


@dataclass(frozen=True)
class Setup:
    """A training, ready to start or to go on.

    Attributes
    ----------
    trainee : Trainee
        As the newest checkpoint left it, or as the linear model starts it.
    loader : Loader
        Of its faces.
    identity : IdentityLoss or None
        Where an embedder was given.
    facts : dict
        What checkpoints say of the net's pictures.
    notes : list of str
        Checkpoints that were damaged.
    """

    trainee: Trainee
    loader: Loader
    identity: IdentityLoss | None
    facts: dict[str, Any]
    notes: list[str]

    @classmethod
    def read(cls, folder: Path, config: Config, team: Team, embedder: Callable[[], InceptionResnetV1] | None) -> Setup:
        """Read what `prepare` wrote; every process of the team does.

        Parameters
        ----------
        folder : Path
            Of the training.
        config : Config
            `train` and `seed` are used.
        team : Team
            This process among those that train.
        embedder : callable, optional
            Loads the identity net.
        """
        train = config.train
        facts = read_marker(folder / "setup.json")["facts"]
        shape = Architecture.of(facts["architecture"])
        persons = {side: Person.read(folder / f"faces-{side}") for side in SIDES}
        part = (team.number, team.size)
        loader = Loader(persons, shape.size, train, seed=config.seed, device=team.device, part=part)
        trainee = Trainee(shape, train, team.device, config.seed)
        notes: list[str] = []
        known = checkpoint.load_newest(folder)
        if known is not None:
            tensors, state, notes = known
            trainee.unpack(tensors, state)
        elif shape.linear:
            trainee.raw.start_linear(*_pictures(loader))
            trainee.begin()
        net = None if embedder is None else embedder()
        identity = None
        if net is not None:
            region = tuple(facts["region"])
            identity = IdentityLoss(net.embed_tensor, net.crop_size[0], loader, region)
        return cls(trainee, loader, identity, facts, notes)


def _pictures(loader: Loader) -> tuple[dict[Side, Tensor], dict[Side, Tensor], dict[Side, Tensor]]:
    """All learnable pictures of each person, their twins before the other person's mean picture, and their hints."""
    images: dict[Side, Tensor] = {}
    twins: dict[Side, Tensor] = {}
    hints: dict[Side, Tensor] = {}
    for side in SIDES:
        rows = torch.from_numpy(loader.persons[side].train)
        rows = rows[:: max(1, -(-len(rows) // _MOST))]
        pair = loader.clean(side, rows)
        images[side], hints[side] = pair.target, pair.hints
        drawn, mask = loader.twin(side, rows)
        twins[side] = torch.stack([drawn, mask.expand_as(drawn)])
    for side in SIDES:
        drawn, mask = twins[side]
        twins[side] = torch.lerp(images[OTHER[side]].mean(0), drawn, mask)
    return images, twins, hints
