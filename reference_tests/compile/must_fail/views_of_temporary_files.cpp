// expect: use of deleted function|call to deleted|attempt to use a deleted
// What a reader of a file hands out goes with the file.
#include <dsv4/io/npy.hpp>
#include <dsv4/io/safetensors.hpp>

using dsv4::io::safetensors;
#if defined(DSV4_MUST_FAIL)
const dsv4::io::tensor_info* f() { return safetensors::open("x.safetensors").find("x"); }
#else
const dsv4::io::tensor_info* f(const safetensors& open) { return open.find("x"); }
#endif
