"""Opening and running a serialized engine, in memory and streams that the caller provides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tlp_runtime.engines.options import ProfileShapes, TensorShape
from tlp_runtime.engines.tensorrt.binding import TensorRT
from tlp_runtime.engines.tensorrt.layers import Layers, layers_of_json
from tlp_runtime.engines.tensorrt.names import (
    EngineInspector,
    ICudaEngine,
    IExecutionContext,
    IRuntimeConfig,
    Runtime,
)


def open_plan(binding: TensorRT, plan: bytes) -> OpenEngine:
    """Deserialize an engine.

    Raises
    ------
    EngineError
        TensorRT refuses it on this GPU.
    MemoryExhausted
        There is no memory for its weights.
    """
    trt = binding.trt
    binding.log.lines.clear()
    runtime: Runtime = trt.Runtime(binding.log)
    if binding.adapter.uses_version_compatible:
        runtime.engine_host_code_allowed = True
    reason = binding.adapter.refusal(runtime, plan)
    engine: ICudaEngine = None if reason else runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise binding.error(f"{binding.product} cannot open the engine", reason)
    return OpenEngine(binding, runtime, engine)


class OpenEngine:
    """A deserialized engine. Keeps the runtime alive that made it."""

    def __init__(self, owner: TensorRT, runtime: Runtime, engine: ICudaEngine) -> None:
        self.owner = owner
        self._trt = owner.trt
        self._runtime, self._engine = runtime, engine

    def tensors(self) -> dict[str, tuple[str, str]]:
        """For each input and output: ``INPUT`` or ``OUTPUT``, and the name of its type."""
        engine: ICudaEngine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        return {
            name: (engine.get_tensor_mode(name).name, engine.get_tensor_dtype(name).name)
            for name in names
        }

    def profiles(self, name: str) -> list[ProfileShapes]:
        """Smallest, usual and largest shape of input ``name`` in every profile."""
        engine: ICudaEngine = self._engine
        found = []
        for index in range(engine.num_optimization_profiles):
            smallest, usual, largest = engine.get_tensor_profile_shape(name, index)
            found.append((tuple(smallest), tuple(usual), tuple(largest)))
        return found

    def layers(self) -> Layers:
        """Kinds of layer, and how many compute in which types."""
        engine: ICudaEngine = self._engine
        inspector: EngineInspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return layers_of_json(text)

    def context(self, profile: int, stream: int, cache: bytes = b"") -> Context:
        """An execution context for one profile.

        Parameters
        ----------
        cache
            TensorRT-RTX: kernels compiled earlier, from :meth:`Context.cache`.

        Raises
        ------
        EngineError, MemoryExhausted
            TensorRT cannot make one.
        """
        trt, engine = self._trt, self._engine
        self.owner.log.lines.clear()
        config: IRuntimeConfig = engine.create_runtime_config()
        # Memory of our own, as large as the batch in hand needs, not the largest of the profile.
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        config.set_execution_context_allocation_strategy(strategy)
        kernels = self.owner.adapter.prepare_runtime(config, cache)
        context: IExecutionContext = engine.create_execution_context(config)
        if context is None or not context.set_optimization_profile_async(profile, stream):
            raise self.owner.error(
                f"{self.owner.product} cannot make a context for profile {profile}"
            )
        return Context(self.owner, context, kernels)


class Context:
    """An execution context, for one profile, used by one run at a time."""

    def __init__(self, owner: TensorRT, context: IExecutionContext, kernels: Any) -> None:
        self._owner, self._context, self._kernels = owner, context, kernels

    @property
    def captures_itself(self) -> bool:
        """Whether TensorRT makes the CUDA graphs; else the caller may capture a run."""
        return self._owner.adapter.captures_itself

    def needs(self, inputs: Sequence[str], shape: TensorShape) -> int:
        """Set the shape of every input; returns the bytes of device memory a run takes."""
        context: IExecutionContext = self._context
        for name in inputs:
            if not context.set_input_shape(name, shape):
                raise self._owner.error(f"{self._owner.product} refuses {name} of {shape}")
        return int(context.update_device_memory_size_for_shapes())

    def give(self, address: int, size: int) -> None:
        """Lend it device memory to work in."""
        context: IExecutionContext = self._context
        context.set_device_memory(address, size)

    def enqueue(self, addresses: Mapping[str, int], stream: int) -> None:
        """Put a run into ``stream``. Raises :class:`EngineError`."""
        context: IExecutionContext = self._context
        self._owner.log.lines.clear()
        for name, address in addresses.items():
            context.set_tensor_address(name, address)
        if not context.execute_async_v3(stream):
            raise self._owner.error(f"{self._owner.product} failed to run")

    def cache(self) -> bytes:
        """TensorRT-RTX: the kernels compiled so far; empty otherwise."""
        return self._owner.adapter.kernels(self._kernels)
