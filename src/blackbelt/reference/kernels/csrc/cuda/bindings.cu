// The kernels as operators of PyTorch's dispatcher, torch.ops.blackbelt_cuda.*: allocate the results, launch.
//
// Tensors arrive checked, contiguous and on one GPU. R rows of C columns; sizes of 0 launch nothing.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>

#include "launch.cuh"

namespace {

using at::Tensor;
using blackbelt::Index;
using blackbelt::Wide;

// Starts kernels on the tensor's GPU and on the stream that PyTorch is using there.
class Launcher {
 public:
  explicit Launcher(const Tensor& tensor)
      : guard_(tensor.device()), stream_(c10::cuda::getCurrentCUDAStream(tensor.device().index())) {}

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), unsigned blocks, dim3 threads, unsigned shared_bytes,
                  Arguments... arguments) {
    if (shared_bytes > 48 * 1024)  // more than that has to be asked for, for each kernel
      C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)));
    kernel<<<blocks, threads, shared_bytes, stream_>>>(arguments...);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  c10::cuda::CUDAGuard guard_;
  c10::cuda::CUDAStream stream_;
};

// PyTorch's tensors name the element type at run time: call with an object whose ``type`` is CUDA's.
template <typename T>
struct Element {
  using type = T;
};

template <typename F>
void with_element(const Tensor& tensor, F function) {
  switch (tensor.scalar_type()) {
    case at::kFloat: return function(Element<float>{});
    case at::kDouble: return function(Element<double>{});
    case at::kHalf: return function(Element<__half>{});
    case at::kBFloat16: return function(Element<__nv_bfloat16>{});
    default: TORCH_CHECK_TYPE(false, "dtype is ", tensor.scalar_type(), "; allowed are float32, float64, float16 and bfloat16");
  }
}

template <typename T>
T* pointer(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

at::TensorOptions wide(const Tensor& tensor) {
  return tensor.options().dtype(tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

Tensor bias_gelu(const Tensor& input, const Tensor& bias) {
  Tensor out = at::empty_like(input);
  if (!input.numel()) return out;
  Launcher launch(input);
  with_element(input, [&](auto element) {
    using T = typename decltype(element)::type;
    blackbelt::launch_bias_gelu<T>(launch, pointer<T>(input), pointer<T>(bias), pointer<T>(out), input.size(0),
                                   input.size(1));
  });
  return out;
}

std::tuple<Tensor, Tensor> bias_gelu_backward(const Tensor& grad, const Tensor& input, const Tensor& bias) {
  Tensor grad_input = at::empty_like(input), grad_bias = at::zeros_like(bias);
  if (!input.numel()) return {grad_input, grad_bias};
  Launcher launch(input);
  const Index rows = input.size(0), columns = input.size(1);
  const Tensor partial = at::empty({blackbelt::column_groups(rows), columns}, wide(input));
  with_element(input, [&](auto element) {
    using T = typename decltype(element)::type;
    blackbelt::launch_bias_gelu_backward<T>(launch, pointer<T>(grad), pointer<T>(input), pointer<T>(bias),
                                            pointer<T>(grad_input), pointer<T>(grad_bias), pointer<Wide<T>>(partial),
                                            rows, columns);
  });
  return {grad_input, grad_bias};
}

Tensor softmax(const Tensor& input) {
  Tensor out = at::empty_like(input);
  if (!input.numel()) return out;
  Launcher launch(input);
  with_element(input, [&](auto element) {
    using T = typename decltype(element)::type;
    blackbelt::launch_softmax<T>(launch, pointer<T>(input), pointer<T>(out), input.size(0), input.size(1));
  });
  return out;
}

Tensor softmax_backward(const Tensor& grad, const Tensor& out) {
  Tensor grad_input = at::empty_like(out);
  if (!out.numel()) return grad_input;
  Launcher launch(out);
  with_element(out, [&](auto element) {
    using T = typename decltype(element)::type;
    blackbelt::launch_softmax_backward<T>(launch, pointer<T>(grad), pointer<T>(out), pointer<T>(grad_input),
                                          out.size(0), out.size(1));
  });
  return grad_input;
}

std::tuple<Tensor, Tensor> rms_norm(const Tensor& input, const Tensor& weight, double eps) {
  Tensor out = at::empty_like(input), rstd = at::empty({input.size(0)}, wide(input));
  if (!input.size(0)) return {out, rstd};  // rows without columns have an rstd: NaN, the mean of nothing
  Launcher launch(input);
  with_element(input, [&](auto element) {
    using T = typename decltype(element)::type;
    blackbelt::launch_rms_norm<T>(launch, pointer<T>(input), pointer<T>(weight), eps, pointer<T>(out),
                                  pointer<Wide<T>>(rstd), input.size(0), input.size(1));
  });
  return {out, rstd};
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                             const Tensor& rstd) {
  Tensor grad_input = at::empty_like(input), grad_weight = at::zeros_like(weight);
  if (!input.numel()) return {grad_input, grad_weight};
  Launcher launch(input);
  const Index rows = input.size(0), columns = input.size(1);
  with_element(input, [&](auto element) {
    using T = typename decltype(element)::type;
    const Tensor partial = at::empty({blackbelt::rms_norm_groups<T>(rows, columns), columns}, wide(input));
    blackbelt::launch_rms_norm_backward<T>(launch, pointer<T>(grad), pointer<T>(input), pointer<T>(weight),
                                           pointer<Wide<T>>(rstd), pointer<T>(grad_input), pointer<T>(grad_weight),
                                           pointer<Wide<T>>(partial), rows, columns);
  });
  return {grad_input, grad_weight};
}

std::tuple<Tensor, Tensor> cross_entropy(const Tensor& logits, const Tensor& target, int64_t ignore_index) {
  Tensor losses = at::empty({logits.size(0)}, wide(logits));
  Tensor lse = at::empty({logits.size(0)}, logits.options().dtype(at::kDouble));
  if (!logits.size(0)) return {losses, lse};  // rows without columns are looked at: their targets have to be ignored
  Launcher launch(logits);
  with_element(logits, [&](auto element) {
    using T = typename decltype(element)::type;
    blackbelt::launch_cross_entropy<T>(launch, pointer<T>(logits), pointer<Index>(target), ignore_index,
                                       pointer<Wide<T>>(losses), pointer<double>(lse), logits.size(0), logits.size(1));
  });
  return {losses, lse};
}

Tensor cross_entropy_backward(const Tensor& grad, const Tensor& logits, const Tensor& target, const Tensor& lse,
                              int64_t ignore_index) {
  Tensor grad_logits = at::empty_like(logits);
  if (!logits.numel()) return grad_logits;
  Launcher launch(logits);
  with_element(logits, [&](auto element) {
    using T = typename decltype(element)::type;
    blackbelt::launch_cross_entropy_backward<T>(launch, pointer<Wide<T>>(grad), pointer<T>(logits),
                                                pointer<Index>(target), pointer<double>(lse), ignore_index,
                                                pointer<T>(grad_logits), logits.size(0), logits.size(1));
  });
  return grad_logits;
}

Tensor cross_entropy_(Tensor& logits, const Tensor& target, int64_t ignore_index, const Tensor& factor) {
  Tensor losses = at::empty({logits.size(0)}, wide(logits));
  if (!logits.size(0)) return losses;
  Launcher launch(logits);
  with_element(logits, [&](auto element) {
    using T = typename decltype(element)::type;
    blackbelt::launch_cross_entropy_in_place<T>(launch, pointer<T>(logits), pointer<Index>(target), ignore_index,
                                                pointer<Wide<T>>(factor), pointer<Wide<T>>(losses), logits.size(0),
                                                logits.size(1));
  });
  return losses;
}

blackbelt::Rung rung_named(c10::string_view name, const Tensor& tensor) {
  if (name == "naive") return blackbelt::Rung::NAIVE;
  if (name == "tiles") return blackbelt::Rung::TILES;
  if (name == "registers") return blackbelt::Rung::REGISTERS;
  TORCH_CHECK_VALUE(name == "tensor_cores", "rung is '", name,
                    "'; on a GPU there are 'naive', 'tiles', 'registers' and 'tensor_cores'");
  TORCH_CHECK_VALUE(tensor.scalar_type() != at::kDouble,
                    "the rung 'tensor_cores' takes float32 (as tf32), float16 and bfloat16, and a is float64; try the "
                    "rung 'registers'");
  return blackbelt::Rung::TENSOR_CORES;
}

Tensor matmul(const Tensor& a, const Tensor& b, c10::string_view name) {
  const auto rung = rung_named(name, a);
  if (!a.numel() || !b.numel()) return at::zeros({a.size(0), b.size(1)}, a.options());
  Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
  Launcher launch(a);
  with_element(a, [&](auto element) {
    using T = typename decltype(element)::type;
    blackbelt::launch_matmul<T>(launch, rung, pointer<T>(a), pointer<T>(b), pointer<T>(out), a.size(0), b.size(1),
                                a.size(1));
  });
  return out;
}

}  // namespace

TORCH_LIBRARY(blackbelt_cuda, library) {
  library.def("bias_gelu(Tensor input, Tensor bias) -> Tensor");
  library.def("bias_gelu_backward(Tensor grad, Tensor input, Tensor bias) -> (Tensor, Tensor)");
  library.def("softmax(Tensor input) -> Tensor");
  library.def("softmax_backward(Tensor grad, Tensor out) -> Tensor");
  library.def("rms_norm(Tensor input, Tensor weight, float eps) -> (Tensor, Tensor)");
  library.def("rms_norm_backward(Tensor grad, Tensor input, Tensor weight, Tensor rstd) -> (Tensor, Tensor)");
  library.def("cross_entropy(Tensor logits, Tensor target, int ignore_index) -> (Tensor, Tensor)");
  library.def(
      "cross_entropy_backward(Tensor grad, Tensor logits, Tensor target, Tensor lse, int ignore_index) -> Tensor");
  library.def("cross_entropy_(Tensor(a!) logits, Tensor target, int ignore_index, Tensor factor) -> Tensor");
  library.def("matmul(Tensor a, Tensor b, str rung) -> Tensor");
}

TORCH_LIBRARY_IMPL(blackbelt_cuda, CUDA, library) {
  library.impl("bias_gelu", bias_gelu);
  library.impl("bias_gelu_backward", bias_gelu_backward);
  library.impl("softmax", softmax);
  library.impl("softmax_backward", softmax_backward);
  library.impl("rms_norm", rms_norm);
  library.impl("rms_norm_backward", rms_norm_backward);
  library.impl("cross_entropy", cross_entropy);
  library.impl("cross_entropy_backward", cross_entropy_backward);
  library.impl("cross_entropy_", cross_entropy_);
  library.impl("matmul", matmul);
}
