// expect: use of deleted function|call to deleted|attempt to use a deleted
#include <dsv4/text/tokenizer.hpp>

using dsv4::text::stream_decoder, dsv4::text::tokenizer;
#if defined(DSV4_MUST_FAIL)
stream_decoder f() { return stream_decoder(tokenizer::load("DeepSeek-V4-Flash")); }
#else
stream_decoder f(const tokenizer& t) { return stream_decoder(t); }
#endif
