plugins {
    alias(libs.plugins.android.library)
    alias(libs.plugins.kotlin.android)
}

// What `inv android.build` took out of the npm package that carries ExecuTorch's own library.
val executorch = rootProject.file("../build/android/executorch")

android {
    namespace = "org.lastmile.inference"
    compileSdk = libs.versions.compile.sdk.get().toInt()
    defaultConfig {
        minSdk = libs.versions.min.sdk.get().toInt()
        consumerProguardFiles("consumer-rules.pro")
    }
    testOptions.unitTests.isIncludeAndroidResources = true
    compileOptions {
        sourceCompatibility = JavaVersion.toVersion(libs.versions.jvm.get())
        targetCompatibility = JavaVersion.toVersion(libs.versions.jvm.get())
    }
}

kotlin {
    jvmToolchain(libs.versions.jvm.get().toInt())
    compilerOptions { allWarningsAsErrors = true }
}

dependencies {
    // The app says which runtimes are in it; this library asks when it runs.
    compileOnly(libs.litert)
    compileOnly(libs.nativeloader)
    compileOnly(files(executorch.resolve("classes.jar")))
    testImplementation(libs.junit)
    testImplementation(libs.robolectric)
}
