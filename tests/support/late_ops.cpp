// A library of operators for the tests of the dispatcher, built by g++ while they run.
//
// It registers `NAMESPACE::at_load` when it is loaded, and `NAMESPACE::late` when register_late() is
// called. NAMESPACE is the value of LATE_OPS_NAMESPACE at load, so that one build, copied under several
// names, serves several tests; torch::Library objects are kept here, where TORCH_LIBRARY would make
// static ones, so that a test can take its operators away again.

#include <torch/library.h>

#include <cstdlib>
#include <memory>
#include <string>

namespace {

at::Tensor doubled(const at::Tensor& x) {
  return x.add(x);
}

std::string chosen_namespace() {
  const char* chosen = std::getenv("LATE_OPS_NAMESPACE");
  TORCH_CHECK(chosen != nullptr, "set LATE_OPS_NAMESPACE before this library is loaded");
  return chosen;
}

std::unique_ptr<torch::Library> fragment() {
  static const std::string name = chosen_namespace();
  return std::make_unique<torch::Library>(
      torch::Library::FRAGMENT, name, std::nullopt, __FILE__, __LINE__);
}

// A function that is registered under no dispatch key is a CompositeImplicitAutograd kernel.
std::unique_ptr<torch::Library> registered(const char* schema) {
  auto library = fragment();
  library->def(schema, &doubled);
  return library;
}

std::unique_ptr<torch::Library> at_load = registered("at_load(Tensor x) -> Tensor");
std::unique_ptr<torch::Library> late;

} // namespace

extern "C" void register_late() {
  late = registered("late(Tensor x) -> Tensor");
}

extern "C" void unregister() {
  late.reset();
  at_load.reset();
}
