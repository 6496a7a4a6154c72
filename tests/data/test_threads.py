"""The loader that reads in threads: order, errors, how many items are alive, and when it stops reading."""

import gc
import threading
import time
import weakref

import pytest
import torch
from torch.utils.data import Dataset

from ttl_monai.data import ThreadedLoader


class Watched(Dataset):
    """Images of which it is known how many are alive, and who read how many."""

    def __init__(self, length, broken=None):
        self.length, self.broken = length, broken
        self.alive, self.most, self.read = 0, 0, []
        self.lock = threading.Lock()

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        time.sleep(0.002 * (index % 3))  # they do not finish in the order in which they begin
        if index == self.broken:
            raise ValueError(f"image {index} cannot be read")
        image = torch.full((1, 4, 4), float(index))
        with self.lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
            self.read.append((index, threading.get_ident()))
        weakref.finalize(image, self.gone)
        return {"image": image}

    def gone(self):
        with self.lock:
            self.alive -= 1


CASES = [(1, 1, 1), (4, 2, None), (4, 2, 2), (3, 4, 9), (16, 2, 3), (5, 0, None)]


@pytest.mark.parametrize(("batch_size", "threads", "ahead"), CASES)
def test_batches_come_in_order_and_whole(batch_size, threads, ahead):
    loader = ThreadedLoader(Watched(22), batch_size=batch_size, threads=threads, ahead=ahead)
    batches = [batch["image"][:, 0, 0, 0].tolist() for batch in loader]
    assert len(batches) == len(loader)
    assert [each for batch in batches for each in batch] == list(range(22))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}


@pytest.mark.parametrize(("batch_size", "threads", "ahead"), [(1, 1, 1), (4, 2, None), (4, 3, 3), (8, 2, 12)])
def test_no_more_images_are_alive_than_it_says(batch_size, threads, ahead):
    images = Watched(60)
    loader = ThreadedLoader(images, batch_size=batch_size, threads=threads, ahead=ahead)
    for _ in loader:
        time.sleep(0.01)  # a slow network: readers have all the time to run ahead
    assert images.most <= loader.ahead + batch_size  # the batch in use is a copy, of at most batch_size images
    assert images.most >= min(batch_size, 2)
    gc.collect()
    assert images.alive == 0


def test_several_threads_read():
    images = Watched(20)
    list(ThreadedLoader(images, batch_size=4, threads=2))
    readers = {reader for _, reader in images.read}
    assert len(readers) == 2
    assert threading.get_ident() not in readers


def test_an_error_comes_in_its_turn_and_not_as_an_end():
    loader = iter(ThreadedLoader(Watched(12, broken=9), batch_size=4, threads=2, ahead=8))
    assert len(next(loader)["image"]) == len(next(loader)["image"]) == 4
    with pytest.raises(ValueError, match="image 9 cannot be read"):
        next(loader)


def test_it_stops_reading_for_somebody_who_stops_asking():
    images, before = Watched(100), threading.active_count()
    loader = iter(ThreadedLoader(images, batch_size=4, threads=2))
    next(loader)
    loader.close()
    assert threading.active_count() == before
    assert len(images.read) <= 4 + 4 + 2


@pytest.mark.parametrize("options", [{"threads": -1}, {"threads": 3, "ahead": 2}])
def test_what_it_refuses(options):
    with pytest.raises(ValueError, match="threads must be at least 0 and ahead at least as many, got threads"):
        ThreadedLoader(Watched(3), **options)
