// Merge this into the app module's build.gradle.kts.

android {
    androidResources {
        // A compressed asset cannot be larger than memory allows to inflate, and is copied more slowly.
        noCompress += listOf("pte")
    }
}

dependencies {
    // The release that the bundle was validated with: XNNPACK, the quantized kernels and the language model runner are
    // in it. If the repository does not carry it yet, take the newest there is and run EdgeqModel.smokeTest().
    implementation("org.pytorch:executorch-android:@RUNTIME_VERSION@")
}
