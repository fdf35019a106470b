double angle_of(long long position, float frequency) { return static_cast<float>(position) * frequency; }
