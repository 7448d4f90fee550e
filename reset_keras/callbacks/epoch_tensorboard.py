import os

import keras


class EpochTensorBoard(keras.callbacks.TensorBoard):
    """Writes the logs of each epoch for TensorBoard, and nothing of single batches, neither to files nor to memory.

    `keras.callbacks.TensorBoard` makes a tensor of every log of every batch, even if it does not write it, and
    TensorFlow keeps these tensors: memory grows along the training. It needs TensorFlow for writing on any backend.

    Args:
        log_dir: Folder of the run.

    Examples:
        >>> model.fit(images, labels, callbacks=[EpochTensorBoard("runs/mine")])  # doctest: +SKIP
    """

    def __init__(self, log_dir: str | os.PathLike) -> None:
        super().__init__(os.fspath(log_dir), write_graph=False)

    on_train_batch_end = keras.callbacks.Callback.on_train_batch_end  # which does nothing
