// ExecuTorch as a small library with a C interface, for edge_bench/runtimes/executorch_runner.py. It loads and runs a
// program and passes tensors as plain memory. Everything else (samples, timing, JSON) is edge-bench's Python code, the
// same as for every other runtime. Unlike ExecuTorch's Python bindings, it does not need torch.
//
// A function that can fail returns an ExecuTorch error code, or 0; runner_error_text returns its description.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <executorch/extension/data_loader/mmap_data_loader.h>
#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/runtime/core/error.h>
#include <executorch/runtime/core/exec_aten/exec_aten.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/runtime.h>

// The wheel contains the thread pool's library but not this header. Source: extension/threadpool/threadpool.h.
namespace executorch::extension::threadpool {
class ThreadPool final {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t new_thread_count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;
using executorch::extension::MallocMemoryAllocator;
using executorch::extension::MmapDataLoader;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::HierarchicalAllocator;
using executorch::runtime::MemoryManager;
using executorch::runtime::Method;
using executorch::runtime::MethodMeta;
using executorch::runtime::Program;
using executorch::runtime::Result;
using executorch::runtime::Span;
using executorch::runtime::Tag;
using executorch::runtime::TensorInfo;

constexpr const char* kMethod = "forward";

// An input's shape and tensor. The SDK's TensorPtr would do, but its shared_ptr requires a newer glibc than many boards
// have.
struct Input {
  std::vector<SizesType> sizes;
  std::optional<TensorImpl> tensor;
};

// Each member depends only on earlier ones, because C++ destroys members from the last to the first.
struct Runner {
  explicit Runner(MmapDataLoader&& file) : loader(std::move(file)) {}

  MmapDataLoader loader;
  std::optional<Program> program;
  MallocMemoryAllocator method_memory;
  MallocMemoryAllocator temporary_memory;
  std::vector<std::vector<uint8_t>> planned;
  std::vector<Span<uint8_t>> spans;
  std::optional<HierarchicalAllocator> planned_memory;
  std::optional<MemoryManager> memory;
  std::optional<Method> method;
  std::vector<Input> inputs;
};

Error load(Runner& runner) {
  Result<Program> program = Program::load(&runner.loader, Program::Verification::InternalConsistency);
  if (!program.ok()) {
    return program.error();
  }
  runner.program.emplace(std::move(*program));
  Result<MethodMeta> meta = runner.program->method_meta(kMethod);
  if (!meta.ok()) {
    return meta.error();
  }
  for (size_t index = 0; index < meta->num_memory_planned_buffers(); ++index) {
    Result<int64_t> size = meta->memory_planned_buffer_size(index);
    if (!size.ok()) {
      return size.error();
    }
    runner.planned.emplace_back(static_cast<size_t>(*size));
    runner.spans.emplace_back(runner.planned.back().data(), runner.planned.back().size());
  }
  runner.planned_memory.emplace(Span<Span<uint8_t>>(runner.spans.data(), runner.spans.size()));
  runner.memory.emplace(&runner.method_memory, &*runner.planned_memory, &runner.temporary_memory);
  Result<Method> method = runner.program->load_method(kMethod, &*runner.memory);
  if (!method.ok()) {
    return method.error();
  }
  runner.method.emplace(std::move(*method));
  runner.inputs.resize(runner.method->inputs_size());
  return Error::Ok;
}

int32_t number(Error error) {
  return static_cast<int32_t>(error);
}

}  // namespace

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

// A tensor in the runner's memory, or its description only (data is then null).
struct RunnerTensor {
  void* data;
  size_t bytes;
  int32_t dtype;  // ExecuTorch's ScalarType
  int32_t rank;
  int32_t sizes[16];
};

EXPORTED const char* runner_error_text(int32_t error) {
  return executorch::runtime::to_string(static_cast<Error>(error));
}

// Sets the size of the thread pool and returns the new one. Call it before runner_load: the pool starts with one thread
// per core, and XNNPACK takes the pool when a method is loaded.
EXPORTED size_t runner_set_threads(uint32_t threads) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool == nullptr) {
    return 1;
  }
  pool->_unsafe_reset_threadpool(threads);
  return pool->get_thread_count();
}

// On success, *out is a runner that the caller frees with runner_free.
EXPORTED int32_t runner_load(const char* path, Runner** out) {
  executorch::runtime::runtime_init();
  Result<MmapDataLoader> loader = MmapDataLoader::from(path, MmapDataLoader::MlockConfig::NoMlock);
  if (!loader.ok()) {
    return number(loader.error());
  }
  auto runner = std::make_unique<Runner>(std::move(*loader));
  const Error error = load(*runner);
  if (error == Error::Ok) {
    *out = runner.release();
  }
  return number(error);
}

EXPORTED void runner_free(Runner* runner) {
  delete runner;
}

EXPORTED size_t runner_inputs(const Runner* runner) {
  return runner->method->inputs_size();
}

EXPORTED size_t runner_outputs(const Runner* runner) {
  return runner->method->outputs_size();
}

// Whether the program delegates to a backend of that name.
EXPORTED bool runner_uses(const Runner* runner, const char* backend) {
  return runner->method->method_meta().uses_backend(backend);
}

// Describes input or output `index`. InvalidType if it is not a tensor.
EXPORTED int32_t runner_describe(const Runner* runner, bool output, size_t index, RunnerTensor* out) {
  const MethodMeta meta = runner->method->method_meta();
  const Result<Tag> tag = output ? meta.output_tag(index) : meta.input_tag(index);
  if (!tag.ok()) {
    return number(tag.error());
  }
  if (*tag != Tag::Tensor) {
    return number(Error::InvalidType);
  }
  const Result<TensorInfo> info = output ? meta.output_tensor_meta(index) : meta.input_tensor_meta(index);
  if (!info.ok()) {
    return number(info.error());
  }
  const auto sizes = info->sizes();
  if (sizes.size() > std::size(out->sizes)) {
    return number(Error::NotSupported);
  }
  out->data = nullptr;
  out->bytes = info->nbytes();
  out->dtype = static_cast<int32_t>(info->scalar_type());
  out->rank = static_cast<int32_t>(sizes.size());
  for (size_t axis = 0; axis < sizes.size(); ++axis) {
    out->sizes[axis] = sizes[axis];
  }
  return number(Error::Ok);
}

// Sets input `index` to `tensor`. If the program has planned memory for the input, the values are copied. Otherwise it
// reads them from tensor->data, which must then stay valid until the last run.
EXPORTED int32_t runner_set(Runner* runner, size_t index, const RunnerTensor* tensor) {
  if (index >= runner->inputs.size()) {
    return number(Error::InvalidArgument);
  }
  Input& input = runner->inputs[index];
  input.sizes.assign(tensor->sizes, tensor->sizes + tensor->rank);
  input.tensor.emplace(static_cast<ScalarType>(tensor->dtype), tensor->rank, input.sizes.data(), tensor->data);
  return number(runner->method->set_input(EValue(Tensor(&*input.tensor)), index));
}

EXPORTED int32_t runner_execute(Runner* runner) {
  return number(runner->method->execute());
}

// Describes output `index` of the last run. Its data is valid until the next run.
EXPORTED int32_t runner_get(const Runner* runner, size_t index, RunnerTensor* out) {
  if (index >= runner->method->outputs_size()) {
    return number(Error::InvalidArgument);
  }
  const EValue& value = runner->method->get_output(index);
  if (!value.isTensor()) {
    return number(Error::InvalidType);
  }
  const Tensor& tensor = value.toTensor();
  if (tensor.dim() > static_cast<ssize_t>(std::size(out->sizes))) {
    return number(Error::NotSupported);
  }
  out->data = tensor.mutable_data_ptr();
  out->bytes = tensor.nbytes();
  out->dtype = static_cast<int32_t>(tensor.scalar_type());
  out->rank = static_cast<int32_t>(tensor.dim());
  for (ssize_t axis = 0; axis < tensor.dim(); ++axis) {
    out->sizes[axis] = tensor.size(axis);
  }
  return number(Error::Ok);
}

}  // extern "C"
