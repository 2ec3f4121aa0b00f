"""All that can be known of a run from its configuration, its data and headers, checked before the first stage."""

from ilf_jax.preflight.checks import check_documents, check_sources, trained_tokenizer_size
from ilf_jax.preflight.lengths import fitting, fitting_comparisons

__all__ = ["check_documents", "check_sources", "fitting", "fitting_comparisons",
           "trained_tokenizer_size"]
