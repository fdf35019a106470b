// expect: use of deleted function|call to deleted|attempt to use a deleted
// A temporary checkpoint dies before its weights are used: asking it for them does not compile.
#include <dsv4/io/checkpoint.hpp>

dsv4::index_t f() {
#if defined(DSV4_MUST_FAIL)
  const dsv4::model_weights<>& w = dsv4::io::checkpoint::open("DeepSeek-V4-Flash").weights();
#else
  const auto checkpoint = dsv4::io::checkpoint::open("DeepSeek-V4-Flash");
  const dsv4::model_weights<>& w = checkpoint.weights();
#endif
  return w.embed.rows;
}
