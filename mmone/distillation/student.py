"""What a student of any task has beside its library's model."""
from collections.abc import Sequence

from mmengine.model import BaseModel

from mmone.errors import InputError

from .teachers import Teachers


class Student(BaseModel):
    """A model with teachers, which are loaded as its training begins, and then only.

    Stands before a library's model among the bases of a class.

    Args:
        teachers (Sequence[dict]): See :class:`~mmone.distillation.teachers.Teachers`.
        scope (str): The library.
        temperature (float): T, by which logits are divided.
        soft_weight (float): Weight of the loss against the teachers.

    Raises:
        InputError: If there is no teacher, or a number is out of range.
    """

    def __init__(self, *args, teachers: Sequence[dict], scope: str, temperature: float, soft_weight: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.teachers = Teachers(teachers, scope)
        self.temperature = checked('temperature', temperature, zero=False)
        self.soft_weight = checked('soft_weight', soft_weight)

    def init_weights(self) -> None:
        super().init_weights()
        self.teachers.load(self)

    def _apply(self, fn, *args, **kwargs):
        self.teachers.apply(fn)
        return super()._apply(fn, *args, **kwargs)


def checked(name: str, value: float, zero: bool = True) -> float:
    """A number that must be positive, or 0 too.

    Raises:
        InputError: If it is not.
    """
    if not isinstance(value, (int, float)) or not (value >= 0 if zero else value > 0) or value == float('inf'):
        raise InputError(f'{name} must be a {"number from 0 on" if zero else "positive number"}, got {value!r}')
    return float(value)
