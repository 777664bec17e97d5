"""What must hold between the values of a training's configuration, and the world; see `pipeline.configcheck`."""

import os

from pipeline.filtercheck import check_model_class
from pipeline.problems import Report, check_file_to_write, check_folder, check_selection, check_unique, report_of
from pipeline.regionfile import regions_of
from pipeline.trainschema import ImagesSection, TrainConfig
from pipeline.values import OBJECT, UNFOLDED
from pipeline.yamlfile import did_you_mean
from specialized.models import MODELS

MOST_FOLD = 64  # what was measured ends at 16; a slip of the finger would cost hours


def check_train_config(config: TrainConfig) -> list[str]:
    """Returns the problems, one line each, that keep a valid configuration from training here."""
    report = report_of(config)
    model = config.model
    if OBJECT.fullmatch(model.architecture):
        check_model_class(report, ("model", "architecture"), ("model", "args"), model.architecture, model.args)
        if model.input is None:
            report.problem(("model", "input"), "must be given for a class of one's own, got nothing")
    elif model.architecture not in MODELS:
        close = did_you_mean(model.architecture, MODELS)
        report.problem(
            ("model", "architecture"),
            f"must be a name that `vpipe models` lists, or package.module:Class, got {model.architecture!r}{close}",
        )
    if model.fold > MOST_FOLD:
        text = f"should be at most {MOST_FOLD}, for the network has about f times the weights, got {model.fold}"
        report.warning(("model", "fold"), text)
    if model.fold == 1 and config.train.fold_epochs:
        report.warning(("train", "fold_epochs"), "should be left out: it is for folded networks, got it with f = 1")
    check_unique(report, "classes", [asked.name for asked in config.classes])
    for k, asked in enumerate(config.classes):
        if config.task == "one_of" and asked.name == "none":
            report.problem(("classes", k, "name"), "must not be 'none': one_of adds that class, always last")
    for k, clip in enumerate(config.clips):
        check_selection(report, ("clips", k), clip)
        for key, path in (("video", clip.video), ("labels", clip.labels)):
            report.check_there(("clips", k, key), path, "file")
    _check_regions(report, config)
    if config.images is not None:
        _check_images(report, config, config.images)
    if "split" in config.model_fields_set:
        _check_split(report, config)
    _check_teacher(report, config)
    if None not in (config.operating.false_negative_rate, config.operating.false_positive_rate):
        text = "must not stand beside 'false_negative_rate', got both; remove one"
        report.problem(("operating", "false_positive_rate"), text)
    if not config.output.endswith(".safetensors"):
        report.problem(("output",), f"must end in .safetensors, got {report.path(('output',), config.output)}")
    check_file_to_write(report, ("output",), config.output, run_dir=config.run.dir)
    check_folder(report, ("run", "dir"), config.run.dir)
    config._warnings = tuple(report.warnings)
    return report.problems


def _check_regions(report: Report, config: TrainConfig) -> None:
    """All clips have regions, or none: frames are not parts of frames."""
    common = regions_of(config, report.problem)
    own = [regions_of(clip, report.below("clips", k)) for k, clip in enumerate(config.clips)]
    some = common is not None or any(regions is not None for regions in own)
    if config.images is not None and some:
        report.problem((), "regions: must be left out: images are pictures as they are")
    for k, regions in enumerate(own):
        if some and regions is None and common is None:
            report.problem(("clips", k), "must have regions as other clips have, got none")
    if "inside" in config.model_fields_set and not some:
        report.problem(("inside",), "must be left out where there are no regions, got it")
    if config.model.order == "regions" and not some and config.clips:
        report.warning(("model", "order"), "should be consecutive where there are no regions, got regions")


def _check_images(report: Report, config: TrainConfig, images: ImagesSection) -> None:
    folders: dict[str, str] = {key: path for key, path in images if path is not None}
    if "folder" in folders:
        for key in folders.keys() - {"folder"}:
            report.problem(("images", key), "must not stand beside 'folder', got both; remove one")
        if "gap_s" in config.split.model_fields_set:
            report.problem(("split", "gap_s"), "must be left out: images have no times to leave a gap between")
    else:
        for key in {"training", "validation"} - folders.keys():
            report.problem(("images", key), "must be given, or 'folder' alone")
        if "split" in config.model_fields_set:
            report.problem(("split",), "must be left out: the folders of images say what is for what")
    for key, path in folders.items():
        report.check_there(("images", key), path, "folder")
        if path in [folders[other] for other in folders if other < key]:
            report.problem(
                ("images", key), f"must be another part's folder, got {report.path(('images', key), path)} again"
            )
    for key, why in (
        ("clips", "images stand in their place"),
        ("classes", "the sub-folders of images are the classes"),
    ):
        if key in config.model_fields_set:
            report.problem((key,), f"must be left out: {why}")
    if config.task != "one_of":
        report.problem(("task",), f"must be one_of with images, which lie in one folder each, got {config.task}")
    if config.model.fold > 1 and config.model.order != "shuffled":
        report.warning(
            ("model", "order"),
            f"should be shuffled with images, which have no order of their own, got {config.model.order}",
        )


def _check_split(report: Report, config: TrainConfig) -> None:
    split = config.split
    if not split.validation:
        report.problem(("split", "validation"), "must name a block or more, got an empty list")
    seen: set[int] = set()
    for key, numbers in (("validation", split.validation), ("test", split.test)):
        for k, number in enumerate(numbers):
            if number >= split.blocks:
                report.problem(("split", key, k), f"must be below {split.blocks}, the number of blocks, got {number}")
            if number in seen:
                report.problem(("split", key, k), f"must be a block that is named once, got {number} again")
            seen.add(number)
    if len(seen) >= split.blocks:
        report.problem(("split",), f"must leave a block to train on, got all {split.blocks} named")


def _check_teacher(report: Report, config: TrainConfig) -> None:
    if config.train.curriculum_share and config.task == "any_of":
        report.problem(("train", "curriculum_share"), "must be 0 for any_of, where a picture may be of several classes")
    if config.teacher is None:
        return
    if config.model.fold == 1:
        report.problem(("teacher",), "must be left out where model.fold is 1: it teaches a folded model")
    if config.teacher != UNFOLDED and not os.path.isfile(config.teacher):
        path = report.path(("teacher",), config.teacher)
        report.problem(("teacher",), f"must be {UNFOLDED!r} or a model file, got none at {path}")
