"""What ties a bundle's config together: the workflow's checks, its data, its runs."""

from ttl_monai.engines.datasets import (
    announce,
    check_classes,
    evaluation_facts,
    inference_items,
    mask_items,
    open_data,
)
from ttl_monai.engines.processes import distribute, join_processes, launched, synchronise_norms
from ttl_monai.engines.runs import (
    build_dataset,
    build_network,
    build_preprocessing,
    find_run,
    load_spec,
    model_spec,
    run_facts,
    set_old_run_aside,
    start_from,
)
from ttl_monai.engines.volumes import find_volumes
from ttl_monai.engines.workflow import find_workflow, literal, prepare_workflow

__all__ = [
    "announce",
    "build_dataset",
    "build_network",
    "build_preprocessing",
    "check_classes",
    "distribute",
    "evaluation_facts",
    "find_run",
    "find_volumes",
    "find_workflow",
    "inference_items",
    "join_processes",
    "launched",
    "literal",
    "load_spec",
    "mask_items",
    "model_spec",
    "open_data",
    "prepare_workflow",
    "run_facts",
    "set_old_run_aside",
    "start_from",
    "synchronise_norms",
]
