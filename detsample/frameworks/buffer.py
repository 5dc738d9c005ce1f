"""What a kernel gets in place of a tensor: an address and an element type, without any framework.

Triton looks at two attributes of a pointer argument, ``data_ptr()`` and ``dtype``. It reduces ``dtype`` to
``str(dtype).split(".")[-1]``, so a plain string does, and it keeps the answer under the *hash* of ``dtype``
alone (3.6 and 3.9; the pair itself in 3.3). A Paddle dtype hashes to a small integer, a string to 64 well
mixed bits: with strings no two types can be taken for each other.
"""

from __future__ import annotations

import numpy as np


class Buffer:
    """Device memory as a kernel argument.

    Parameters
    ----------
    address : int or None
        Address of the first element. An empty tensor has none: Paddle 2.6 then says None and 3.x says 0.
    dtype : str
        Element type by its NumPy name: ``"float32"``, ``"bfloat16"``, ``"int64"``, ``"bool"``...
    owner : object
        Whatever keeps the memory alive.
    """

    __slots__ = ("_address", "_owner", "dtype")

    def __init__(self, address: int | None, dtype: str, owner: object) -> None:
        self._address = address or 0
        self.dtype = dtype
        self._owner = owner

    def data_ptr(self) -> int:
        """Address of the first element; Triton specialises on its being a multiple of 16."""
        return self._address

    def __repr__(self) -> str:
        return f"{type(self).__name__}(0x{self._address:x}, {self.dtype!r})"


class HostBuffer(Buffer):
    """A NumPy array as an argument of Triton's interpreter (``TRITON_INTERPRET=1``), written in place.

    The interpreter copies the *storage* of every argument to the host, rebuilds each argument on the copy,
    runs, and copies back. The memory is on the host already, so here a buffer is its own storage, its own
    host copy, and copying back does nothing. Strides do not matter, because a kernel gets them as arguments, as on a
    GPU.

    Parameters
    ----------
    array : np.ndarray
        The memory, of any strides, in native byte order.
    dtype : str, optional
        The element type, where it is not the array's own: ``"bfloat16"`` for an array of uint16 that holds
        its bits.
    """

    __slots__ = ("_shape", "_strides")

    def __init__(self, array: np.ndarray, dtype: str | None = None) -> None:
        name = array.dtype.name if dtype is None else dtype
        if not array.dtype.isnative:
            raise TypeError(f"array must be in native byte order, got dtype {array.dtype.str!r}")
        if name != array.dtype.name and (name, array.dtype.name) != ("bfloat16", "uint16"):
            raise TypeError(f"dtype must be that of the array ({array.dtype.name}), got {name!r}")
        super().__init__(int(array.__array_interface__["data"][0]), name, array)
        self._shape = array.shape
        self._strides = tuple(step // array.itemsize for step in array.strides)

    def size(self) -> tuple[int, ...]:
        """Shape, under torch's name for it."""
        return self._shape

    def stride(self) -> tuple[int, ...]:
        """Strides in elements, under torch's name for them."""
        return self._strides

    def storage_offset(self) -> int:
        """Return zero: the storage starts at the first element."""
        return 0

    def untyped_storage(self) -> HostBuffer:
        """Return the buffer itself."""
        return self

    def cpu(self) -> HostBuffer:
        """Return the buffer itself, which is on the host."""
        return self

    def new_empty(self, size: object, device: str = "cpu") -> HostBuffer:
        """Return a buffer of the same type, for ``set_`` to point somewhere."""
        blank = HostBuffer.__new__(HostBuffer)
        Buffer.__init__(blank, 0, self.dtype, None)
        blank._shape, blank._strides = (), ()
        return blank

    def set_(
        self, storage: HostBuffer, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> HostBuffer:
        """Point at ``storage``, whose offset is always zero, keeping the element type."""
        self._address, self._owner = storage._address, storage._owner
        self._shape, self._strides = size, stride
        return self

    def copy_(self, source: HostBuffer) -> HostBuffer:
        """Do nothing, because ``source`` is this memory. Refuse any other, because a result would be lost."""
        if source._address != self._address:
            raise ValueError(f"source must be the same memory as {self!r}, got {source!r}")
        return self
