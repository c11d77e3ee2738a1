import mmdflow.methods.registry

from .chain import move as move
from .chain import push as push
from .chain import start_at_identity as start_at_identity
from .forms import FORMS as FORMS
from .forms import VariationalForm as VariationalForm
from .loss import JKOLoss as JKOLoss
from .loss import JKOTerms as JKOTerms
from .pipeline import JKOPipeline as JKOPipeline
from .settings import JKOLossSettings as JKOLossSettings
from .settings import JKOSettings as JKOSettings

METHODS: tuple[mmdflow.methods.registry.Method, ...]
