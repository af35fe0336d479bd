plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

// ExecuTorch's library, which `inv android.build` extracts from an npm package, and the exported models.
val built = rootProject.file("../build/android")

android {
    namespace = libs.versions.application.id.get()
    compileSdk = libs.versions.compile.sdk.get().toInt()
    defaultConfig {
        applicationId = libs.versions.application.id.get()
        minSdk = libs.versions.min.sdk.get().toInt()
        targetSdk = libs.versions.target.sdk.get().toInt()
        versionCode = libs.versions.version.code.get().toInt()
        versionName = libs.versions.version.name.get()
        manifestPlaceholders["litertVersion"] = libs.versions.litert.get()
        manifestPlaceholders["executorchVersion"] = libs.versions.executorch.get()
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }
    buildTypes {
        release {
            isMinifyEnabled = true
            proguardFiles("rules.pro")
            signingConfig = signingConfigs["debug"]
        }
    }
    testOptions.unitTests.isIncludeAndroidResources = true
    compileOptions {
        sourceCompatibility = JavaVersion.toVersion(libs.versions.jvm.get())
        targetCompatibility = JavaVersion.toVersion(libs.versions.jvm.get())
    }
    sourceSets["main"].assets.srcDir(built.resolve("assets"))
    sourceSets["main"].jniLibs.srcDir(built.resolve("executorch/jni"))
}

kotlin {
    jvmToolchain(libs.versions.jvm.get().toInt())
    compilerOptions { allWarningsAsErrors = true }
}

dependencies {
    implementation(project(":inference"))
    implementation(libs.litert)
    implementation(libs.fbjni)
    implementation(libs.nativeloader)
    implementation(files(built.resolve("executorch/classes.jar")))
    testImplementation(libs.junit)
    testImplementation(libs.robolectric)
}
