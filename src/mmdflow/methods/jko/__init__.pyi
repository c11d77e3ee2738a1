import mmdflow.methods.registry

from .chain import move as move, push as push, start_at_identity as start_at_identity
from .forms import FORMS as FORMS, VariationalForm as VariationalForm
from .loss import JKOLoss as JKOLoss, JKOTerms as JKOTerms
from .pipeline import JKOPipeline as JKOPipeline
from .settings import JKOLossSettings as JKOLossSettings, JKOSettings as JKOSettings

METHODS: tuple[mmdflow.methods.registry.Method, ...]
