// expect: use of deleted function|call to deleted
// The weights must outlive the transformer.
#include <dsv4/model/transformer.hpp>

using model = dsv4::transformer<dsv4::float32<>, dsv4::exec::ref>;
#if defined(DSV4_MUST_FAIL)
model f(const dsv4::config& c, dsv4::model_weights<> w) { return model(c, std::move(w)); }
#else
model f(const dsv4::config& c, const dsv4::model_weights<>& w) { return model(c, w); }
#endif
