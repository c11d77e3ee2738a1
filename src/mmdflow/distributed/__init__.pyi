from .fields import shard as shard
from .ranks import Ranks as Ranks, Rows as Rows, connect as connect, current as current
