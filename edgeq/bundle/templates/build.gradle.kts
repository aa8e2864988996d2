// Merge this into the app module's build.gradle.kts.

android {
    defaultConfig {
        minSdk = 24 // java.util.Optional, which ONNX Runtime's results use
    }
    androidResources {
        // A compressed asset cannot be larger than memory allows to inflate, and is copied more slowly.
        noCompress += listOf("onnx", "onnx_data")
    }
}

dependencies {
    // The release that the bundle was validated with. If the repository does not carry it yet, take the newest
    // there is and run EdgeqModel.smokeTest(). Not onnxruntime-mobile: it stopped at 1.18 and reads .ort files only.
    implementation("com.microsoft.onnxruntime:onnxruntime-android:@RUNTIME_VERSION@")
@EXTENSIONS@}
