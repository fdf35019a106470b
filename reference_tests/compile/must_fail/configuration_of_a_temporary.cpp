// expect: use of deleted function|call to deleted|attempt to use a deleted
#include <dsv4/io/checkpoint.hpp>

#if defined(DSV4_MUST_FAIL)
const dsv4::config& f() { return dsv4::io::checkpoint::open("DeepSeek-V4-Flash").configuration(); }
#else
const dsv4::config& f(const dsv4::io::checkpoint& open) { return open.configuration(); }
#endif
