"""Eight fake CPU devices and quick compiling, for this process and those that it starts."""

import os

FLAGS = (
    '--xla_force_host_platform_device_count=8',
    # Tests compile far more than they compute.
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_cpu_use_fusion_emitters=false',
)


def use() -> None:
    """Before JAX starts."""
    os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *FLAGS])
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
