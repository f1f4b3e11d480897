"""What tests that train share."""

import pytest


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """What is compiled in one test is there for the others."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    yield
    jax.config.update("jax_compilation_cache_dir", None)
