"""A loader that reads in threads, a stated number of images ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from monai.data import DataLoader
from torch.utils.data import Dataset

__all__ = ["ThreadedLoader"]


class ThreadedLoader(DataLoader):
    """MONAI's `DataLoader` for prediction, with items read and transformed in threads of this process.

    Items are read one by one, not batch by batch, so that even the first batch is shared among the threads; decoders
    and resampling let other threads run meanwhile. The order is that of the data set. An item that cannot be read
    raises its error here when its turn comes.

    Not more than `ahead` items are read or being read before they are asked for. With those of the batch that is being
    made and of the one in use, at most `ahead + 2 * batch_size` are alive.

    MONAI's `ThreadDataLoader` is not taken, because an error in its thread ends the loop as if all images had been
    read, and because its workers, made for processes, set the number of threads of the whole process to one.

    Args:
        dataset: items by number; its transforms must not be random ones, which threads would share.
        batch_size: items in a batch.
        threads: that read; 0 reads in the calling thread, as `DataLoader` does.
        ahead: items that are read ahead; None: twice the threads.

    Raises:
        ValueError: a negative number of threads, or nothing ahead of them to read.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int = 1, threads: int = 2, ahead: int | None = None) -> None:
        ahead = 2 * threads if ahead is None else ahead
        if threads < 0 or ahead < threads:
            raise ValueError(
                f"threads must be at least 0 and ahead at least as many, got threads {threads} and ahead {ahead}"
            )
        super().__init__(dataset, batch_size=batch_size, num_workers=0)
        self.threads, self.ahead, self.size = threads, ahead, batch_size

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches in the order of the data set."""
        if not self.threads:
            yield from super().__iter__()
            return
        numbers = iter(range(len(self.dataset)))  # type: ignore[arg-type]
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="read")
        try:
            waiting: deque[Future] = deque(pool.submit(self._read, number) for number in islice(numbers, self.ahead))
            while waiting:
                items: list[Any] = []
                while waiting and len(items) < self.size:
                    items.append(waiting.popleft().result())
                    waiting.extend(pool.submit(self._read, number) for number in islice(numbers, 1))
                batch = self.collate_fn(items)
                del items
                yield batch
                del batch
        finally:
            pool.shutdown(cancel_futures=True)  # those that were read ahead of somebody who stopped asking

    def _read(self, number: int) -> Any:
        return self.dataset[number]
